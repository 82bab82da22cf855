package vim

import (
	"time"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// apiVersion is the version of the vSphere API whose subset is served: that of vSphere 8.0 Update 3.
const apiVersion = "8.0.3.0"

// about says what this host is. It presents itself as a vCenter, because instant clones exist only there.
func (s *Server) about() types.AboutInfo {
	return types.AboutInfo{
		Name: "containerVM hostd-bridge", FullName: "containerVM hostd-bridge " + s.Version, Vendor: "containerVM",
		Version: "8.0.3", Build: s.Version, OsType: "linux-x64", ProductLineId: "vpx",
		ApiType: "VirtualCenter", ApiVersion: apiVersion, InstanceUuid: s.InstanceUUID,
		LocaleVersion: "INTL", LocaleBuild: "000",
	}
}

func (s *Server) content() types.ServiceContent {
	return types.ServiceContent{
		RootFolder: rootFolderRef, PropertyCollector: collectorRef, ViewManager: &viewManagerRef, About: s.about(),
		Setting: &settingRef, SessionManager: &sessionManagerRef, TaskManager: &taskManagerRef,
		SearchIndex: &searchIndexRef, FileManager: &fileManagerRef, VirtualDiskManager: &diskManagerRef,
	}
}

func retrieveServiceContent(c *call, _ *types.RetrieveServiceContent) (*types.RetrieveServiceContentResponse, error) {
	return &types.RetrieveServiceContentResponse{Returnval: c.server.content()}, nil
}

func currentTime(*call, *types.CurrentTime) (*types.CurrentTimeResponse, error) {
	return &types.CurrentTimeResponse{Returnval: time.Now().UTC()}, nil
}

func queryOptions(_ *call, req *types.QueryOptions) (*types.QueryOptionsResponse, error) {
	return nil, fault(&types.InvalidName{Name: req.Name}, "this host has no option %q", req.Name)
}

func entity(self, parent types.ManagedObjectReference, name string) mo.ManagedEntity {
	e := mo.ManagedEntity{
		ExtensibleManagedObject: mo.ExtensibleManagedObject{Self: self},
		Name:                    name,
		OverallStatus:           types.ManagedEntityStatusGreen, ConfigStatus: types.ManagedEntityStatusGreen,
		EffectiveRole: []int32{-1}, // the role Admin
	}
	if parent.Value != "" {
		e.Parent = &parent
	}
	return e
}

func folder(self, parent types.ManagedObjectReference, name string, holds []string, children ...types.ManagedObjectReference) *mo.Folder {
	return &mo.Folder{ManagedEntity: entity(self, parent, name), ChildType: holds, ChildEntity: children}
}

// fixed are the objects that never change.
func (o *objects) fixed() map[types.ManagedObjectReference]any {
	none := types.ManagedObjectReference{}
	return map[types.ManagedObjectReference]any{
		instanceRef:        &mo.ServiceInstance{Self: instanceRef, Content: o.server.content()},
		viewManagerRef:     &mo.ViewManager{Self: viewManagerRef},
		searchIndexRef:     &mo.SearchIndex{Self: searchIndexRef},
		fileManagerRef:     &mo.FileManager{Self: fileManagerRef},
		diskManagerRef:     &mo.VirtualDiskManager{Self: diskManagerRef},
		settingRef:         &mo.OptionManager{Self: settingRef},
		browserRef:         &mo.HostDatastoreBrowser{Self: browserRef, Datastore: stores()},
		environmentRef:     &mo.EnvironmentBrowser{Self: environmentRef},
		rootFolderRef:      folder(rootFolderRef, none, "Datacenters", []string{"Folder", "Datacenter"}, datacenterRef),
		hostFolderRef:      folder(hostFolderRef, datacenterRef, "host", []string{"Folder", "ComputeResource"}, computeRef),
		datastoreFolderRef: folder(datastoreFolderRef, datacenterRef, "datastore", []string{"Folder", "Datastore"}, datastoreRef),
	}
}

func stores() []types.ManagedObjectReference { return []types.ManagedObjectReference{datastoreRef} }

// datacenter names the networks, so it changes with them.
func (o *objects) datacenter() any {
	return &mo.Datacenter{
		ManagedEntity: entity(datacenterRef, rootFolderRef, DatacenterName),
		VmFolder:      vmFolderRef, HostFolder: hostFolderRef, DatastoreFolder: datastoreFolderRef,
		NetworkFolder: networkFolderRef, Datastore: stores(), Network: o.networkRefs(),
	}
}

// compute names the networks, so it changes with them.
func (o *objects) compute() any {
	pool, environment, capacity := rootPoolRef, environmentRef, o.server.Inventory.Capacity
	return &mo.ComputeResource{
		ManagedEntity: entity(computeRef, hostFolderRef, o.server.HostName),
		ResourcePool:  &pool, Host: []types.ManagedObjectReference{hostRef}, Datastore: stores(), Network: o.networkRefs(),
		EnvironmentBrowser: &environment,
		Summary: &types.ComputeResourceSummary{
			TotalCpu: o.megahertz(), TotalMemory: capacity.MemoryMiB << 20, EffectiveCpu: o.megahertz(),
			EffectiveMemory: capacity.MemoryMiB, NumHosts: 1, NumEffectiveHosts: 1,
			NumCpuCores: int16(capacity.CPUs), NumCpuThreads: int16(capacity.CPUs),
			OverallStatus: types.ManagedEntityStatusGreen,
		},
	}
}

func (o *objects) megahertz() int32 { return int32(o.server.Inventory.Capacity.CPUs) * vm.NominalMHz }

// host is the HostSystem; it names the VMs and the networks, so it changes with them.
func (o *objects) host() any {
	inv := o.server.Inventory
	self, about := hostRef, o.server.about()
	about.ApiType = "HostAgent"
	runtime := types.HostRuntimeInfo{
		ConnectionState: types.HostSystemConnectionStateConnected, PowerState: types.HostSystemPowerStatePoweredOn,
	}
	hardware := types.HostHardwareSummary{
		Vendor: hostapi.Vendor, Model: inv.Hypervisor.Describe(), CpuModel: "x86-64", CpuMhz: vm.NominalMHz, NumCpuPkgs: 1,
		NumCpuCores: int16(inv.Capacity.CPUs), NumCpuThreads: int16(inv.Capacity.CPUs), MemorySize: inv.Capacity.MemoryMiB << 20,
	}
	level, lacks := inv.Hypervisor.Isolation()
	hardware.OtherIdentifyingInfo = append(hardware.OtherIdentifyingInfo, identity(hostapi.IdentityJail, level))
	for _, l := range lacks {
		hardware.OtherIdentifyingInfo = append(hardware.OtherIdentifyingInfo, identity(hostapi.IdentityLacks, l))
	}
	return &mo.HostSystem{
		ManagedEntity: entity(hostRef, computeRef, o.server.HostName),
		Runtime:       runtime,
		Summary: types.HostListSummary{
			Host: &self, Hardware: &hardware, Runtime: &runtime, OverallStatus: types.ManagedEntityStatusGreen,
			Config: types.HostConfigSummary{Name: o.server.HostName, Port: 443, Product: &about},
		},
		Vm: o.vmRefs(), Datastore: stores(), Network: o.networkRefs(), DatastoreBrowser: browserRef,
		ConfigManager: types.HostConfigManager{NetworkSystem: &networkSystemRef},
	}
}

// identity is something that a host says of itself which vSphere has no field for.
func identity(kind, value string) types.HostSystemIdentificationInfo {
	return types.HostSystemIdentificationInfo{
		IdentifierValue: value,
		IdentifierType:  &types.ElementDescription{Description: types.Description{Label: kind, Summary: kind}, Key: kind},
	}
}
