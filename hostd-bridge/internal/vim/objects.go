package vim

import (
	"strings"
	"sync"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// The objects of the inventory tree that are always there. DatacenterName and the names of the folders are ESXi's.
const (
	DatacenterName = "ha-datacenter"
	switchName     = "vSwitch0" // of the one virtual switch
)

func moref(kind, value string) types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: kind, Value: value}
}

var (
	instanceRef       = moref("ServiceInstance", "ServiceInstance")
	collectorRef      = moref("PropertyCollector", "propertyCollector")
	sessionManagerRef = moref("SessionManager", "SessionManager")
	viewManagerRef    = moref("ViewManager", "ViewManager")
	taskManagerRef    = moref("TaskManager", "TaskManager")
	searchIndexRef    = moref("SearchIndex", "SearchIndex")
	fileManagerRef    = moref("FileManager", "FileManager")
	diskManagerRef    = moref("VirtualDiskManager", "virtualDiskManager")
	settingRef        = moref("OptionManager", "VpxSettings")

	rootFolderRef      = moref("Folder", "group-d1")
	datacenterRef      = moref("Datacenter", "datacenter-2")
	vmFolderRef        = moref("Folder", "group-v3")
	hostFolderRef      = moref("Folder", "group-h4")
	datastoreFolderRef = moref("Folder", "group-s5")
	networkFolderRef   = moref("Folder", "group-n6")
	computeRef         = moref("ComputeResource", "domain-s7")
	hostRef            = moref("HostSystem", "host-8")
	datastoreRef       = moref("Datastore", "datastore-9")
	browserRef         = moref("HostDatastoreBrowser", "datastoreBrowser-datastore-9")
	environmentRef     = moref("EnvironmentBrowser", "envbrowser-7")
	networkSystemRef   = moref("HostNetworkSystem", "networkSystem-8")
	rootPoolRef        = poolRef(vm.RootPool)
)

func vmRef(value string) types.ManagedObjectReference   { return moref("VirtualMachine", value) }
func poolRef(value string) types.ManagedObjectReference { return moref("ResourcePool", value) }
func networkRef(value string) types.ManagedObjectReference {
	return moref("Network", value)
}

// refOf returns the reference of a VM, a resource pool or a network, told apart by its value's form.
func refOf(value string) types.ManagedObjectReference {
	switch {
	case strings.HasPrefix(value, "resgroup-"):
		return poolRef(value)
	case strings.HasPrefix(value, "network-"):
		return networkRef(value)
	}
	return vmRef(value)
}

// objects finds managed objects by their references.
type objects struct {
	server *Server
	static map[types.ManagedObjectReference]any
	// derived makes the objects that depend on what is in the inventory
	derived map[types.ManagedObjectReference]func() any

	mu  sync.Mutex
	vms map[string]rendered
}

// rendered is a VM as a managed object, and what it was made of.
type rendered struct {
	of     *vm.VM
	layout int // of the networks
	object *mo.VirtualMachine
}

func newObjects(s *Server) *objects {
	o := &objects{server: s, vms: map[string]rendered{}}
	o.static = o.fixed()
	o.derived = map[types.ManagedObjectReference]func() any{
		vmFolderRef:      o.vmFolder,
		hostRef:          o.host,
		datacenterRef:    o.datacenter,
		computeRef:       o.compute,
		datastoreRef:     o.datastore,
		networkFolderRef: o.networkFolder,
		networkSystemRef: o.networkSystem,
		taskManagerRef:   o.taskManager,
	}
	return o
}

// get returns a managed object: a pointer to a struct of package mo, which must not be changed. As long as an object
// has not changed, get may return the same pointer.
func (o *objects) get(x *session, ref types.ManagedObjectReference) (any, bool) {
	if object, ok := o.static[ref]; ok {
		return object, true
	}
	if derive, ok := o.derived[ref]; ok {
		return derive(), true
	}
	switch ref.Type {
	case "VirtualMachine":
		return o.vm(ref)
	case "Task":
		return wrap(o.server.tasks.get(ref))
	case "ResourcePool":
		return o.pool(ref)
	case "Network":
		return o.network(ref)
	}
	if x == nil {
		return nil, false
	}
	return o.sessionObject(x, ref)
}

func wrap[T any](object *T, ok bool) (any, bool) {
	if !ok {
		return nil, false
	}
	return object, true
}

func (o *objects) sessionObject(x *session, ref types.ManagedObjectReference) (any, bool) {
	switch ref.Type {
	case "SessionManager":
		return x.manager(), ref == sessionManagerRef
	case "ContainerView", "ListView":
		if v, ok := x.view(ref); ok {
			return v.object(o), true
		}
	case "PropertyCollector":
		if _, err := x.collector(ref); err == nil {
			return &mo.PropertyCollector{Self: ref}, true
		}
	}
	return nil, false
}

// vm returns a VM as a managed object, made anew only when the VM has changed.
func (o *objects) vm(ref types.ManagedObjectReference) (any, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	v, ok := o.server.Inventory.Get(ref.Value) // under the lock: one that is destroyed meanwhile would be kept for ever
	if !ok {
		delete(o.vms, ref.Value)
		return nil, false
	}
	r, layout := o.vms[ref.Value], o.server.Inventory.Layout()
	if r.of != v || r.layout != layout {
		r = rendered{of: v, layout: layout, object: renderVM(v, o.server.Inventory.Network)}
		o.vms[ref.Value] = r
	}
	return r.object, true
}

// children returns what a container holds directly, as a ContainerView sees it.
func (o *objects) children(ref types.ManagedObjectReference) []types.ManagedObjectReference {
	object, ok := o.get(nil, ref)
	if !ok {
		return nil
	}
	switch c := object.(type) {
	case *mo.Folder:
		return c.ChildEntity
	case *mo.Datacenter:
		return []types.ManagedObjectReference{c.VmFolder, c.HostFolder, c.DatastoreFolder, c.NetworkFolder}
	case *mo.ComputeResource:
		return append([]types.ManagedObjectReference{*c.ResourcePool}, c.Host...)
	case *mo.ResourcePool:
		return append(append([]types.ManagedObjectReference{}, c.ResourcePool...), c.Vm...)
	case *mo.HostSystem:
		return c.Vm
	}
	return nil
}

// vmRefs returns the references of all VMs, oldest first.
func (o *objects) vmRefs() []types.ManagedObjectReference {
	out := []types.ManagedObjectReference{}
	for _, v := range o.server.Inventory.List() {
		out = append(out, vmRef(v.Ref))
	}
	return out
}

func (o *objects) vmFolder() any {
	return folder(vmFolderRef, datacenterRef, "vm", []string{"Folder", "VirtualMachine"}, o.vmRefs()...)
}

func (o *objects) taskManager() any {
	return &mo.TaskManager{Self: taskManagerRef, RecentTask: o.server.tasks.recent(), MaxCollector: 0}
}

func (o *objects) datastore() any {
	capacity, free, err := o.server.Store.Space()
	if err != nil {
		o.server.Log.Warn("cannot measure the datastore", "err", err)
	}
	info := types.DatastoreInfo{Name: datastore.Name, Url: "ds:///" + datastore.Name + "/", FreeSpace: free, MaxFileSize: capacity}
	return &mo.Datastore{
		ManagedEntity: entity(datastoreRef, datastoreFolderRef, datastore.Name),
		Info:          &types.LocalDatastoreInfo{DatastoreInfo: info, Path: info.Url},
		Summary: types.DatastoreSummary{
			Datastore: &datastoreRef, Name: datastore.Name, Url: info.Url, Capacity: capacity, FreeSpace: free,
			Accessible: true, MultipleHostAccess: types.NewBool(false), Type: "OTHER", MaintenanceMode: "normal",
		},
		Host: []types.DatastoreHostMount{{Key: hostRef, MountInfo: types.HostMountInfo{
			Path: info.Url, AccessMode: string(types.HostMountModeReadWrite),
			Mounted: types.NewBool(true), Accessible: types.NewBool(true),
		}}},
		Vm: o.vmRefs(), Browser: browserRef,
		Capability: types.DatastoreCapability{DirectoryHierarchySupported: true, PerFileThinProvisioningSupported: true},
	}
}

// pool returns a resource pool as a managed object.
func (o *objects) pool(ref types.ManagedObjectReference) (any, bool) {
	p, ok := o.server.Inventory.Pool(ref.Value)
	if !ok {
		return nil, false
	}
	parent := computeRef
	if p.Parent != "" {
		parent = poolRef(p.Parent)
	}
	out := &mo.ResourcePool{
		ManagedEntity: entity(ref, parent, p.Name), Owner: computeRef,
		ResourcePool: []types.ManagedObjectReference{}, Vm: []types.ManagedObjectReference{},
		Config: types.ResourceConfigSpec{
			Entity: &ref, CpuAllocation: allocation(p.CPU), MemoryAllocation: allocation(p.Memory),
		},
		Runtime: types.ResourcePoolRuntimeInfo{OverallStatus: types.ManagedEntityStatusGreen},
	}
	out.Summary = &types.ResourcePoolSummary{Name: p.Name, Config: out.Config, Runtime: out.Runtime}
	for _, child := range o.server.Inventory.Pools() {
		if child.Parent == ref.Value {
			out.ResourcePool = append(out.ResourcePool, poolRef(child.Ref))
		}
	}
	for _, v := range o.server.Inventory.List() {
		if v.Pool == ref.Value {
			out.Vm = append(out.Vm, vmRef(v.Ref))
		}
	}
	return out, true
}

func allocation(l vm.Limits) types.ResourceAllocationInfo {
	shares := &types.SharesInfo{Shares: l.Shares, Level: types.SharesLevelCustom}
	if l.Shares == 0 {
		shares.Level = types.SharesLevelNormal
	}
	return types.ResourceAllocationInfo{
		Reservation: types.NewInt64(l.Reservation), Limit: types.NewInt64(l.Limit),
		ExpandableReservation: types.NewBool(true), Shares: shares,
	}
}
