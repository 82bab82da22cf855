package vsphere

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// settleTime bounds how long the inventory may lag behind an operation that the host has finished.
const settleTime = 10 * time.Second

// VMSpec says what VM to make.
type VMSpec struct {
	Name      string // unique on the host, also the VM's directory
	UUID      string // BIOS UUID, RFC 9562 text
	CPUs      int
	CPULimit  float64 // of the host's CPU time, in CPUs; 0: none. LimitsCPUs says whether the host can
	MemoryMiB int
	Kernel    string // datastore paths of what it boots
	Initrd    string
	// RootParent is the datastore path of the disk of which the VM gets a delta as its root disk; empty: no disk.
	RootParent string
	// RootDisk is the datastore path of a disk that is there, which is the VM's root disk in the place of a delta of RootParent. It is to be
	// detached before the VM is destroyed.
	RootDisk    string
	Disks       []DataDisk // beside the root disk
	Cards       []Card     // network cards, by slot
	ExtraConfig map[string]string
}

// CreateVM makes a VM that is off.
func (c *Client) CreateVM(ctx context.Context, spec VMSpec) (Ref, error) {
	conf, err := c.configSpec(ctx, spec)
	if err != nil {
		return Ref{}, failed(err, "create VM %s", spec.Name)
	}
	result, err := c.run(ctx, func(ctx context.Context) (*object.Task, error) {
		return c.place.folder.CreateVM(ctx, conf, c.place.pool, nil)
	})
	if err != nil {
		return Ref{}, failed(err, "create VM %s", spec.Name)
	}
	vm, ok := result.(types.ManagedObjectReference)
	if !ok {
		return Ref{}, fmt.Errorf("cannot create VM %s: the host's task yields %T, not a VM", spec.Name, result)
	}
	return vm, c.settle(ctx, vm, func(now *VM) bool { return now != nil })
}

func (c *Client) configSpec(ctx context.Context, spec VMSpec) (types.VirtualMachineConfigSpec, error) {
	extra := maps.Clone(spec.ExtraConfig)
	if extra == nil {
		extra = map[string]string{}
	}
	extra[hostapi.KeyKernel], extra[hostapi.KeyInitrd] = c.path(spec.Kernel), c.path(spec.Initrd)
	conf := types.VirtualMachineConfigSpec{
		Name:        spec.Name,
		Uuid:        spec.UUID,
		GuestId:     string(types.VirtualMachineGuestOsIdentifierOtherLinux64Guest),
		NumCPUs:     int32(spec.CPUs),
		MemoryMB:    int64(spec.MemoryMiB),
		Files:       &types.VirtualMachineFileInfo{VmPathName: c.path("")},
		ExtraConfig: optionValues(extra),
	}
	devices := object.VirtualDeviceList{newController()}
	var err error
	if spec.CPULimit != 0 {
		if conf.CpuAllocation, err = c.cpuLimit(ctx, spec.CPULimit); err != nil {
			return conf, err
		}
	}
	if conf.DeviceChange, err = devices.ConfigSpec(types.VirtualDeviceConfigSpecOperationAdd); err != nil {
		return conf, err
	}
	cards, err := c.cardSpecs(ctx, Ref{}, CardChange{To: spec.Cards})
	if err != nil {
		return conf, err
	}
	conf.DeviceChange = append(conf.DeviceChange, cards...)
	if spec.RootParent != "" {
		conf.DeviceChange = append(conf.DeviceChange, c.newDelta(rootDisk(spec.Name), spec.RootParent))
	}
	root := spec.Disks
	if spec.RootDisk != "" {
		root = append([]DataDisk{{Path: spec.RootDisk}}, spec.Disks...)
	}
	conf.DeviceChange = append(conf.DeviceChange, c.addDataDisks(root, controllerKey)...)
	return conf, nil
}

// rootDisk is the datastore path of a VM's root disk.
func rootDisk(name string) string { return name + "/" + hostapi.RootDisk }

// optionValues encodes a map for the API, ordered by key; an empty value removes a key.
func optionValues(kv map[string]string) []types.BaseOptionValue {
	var options []types.BaseOptionValue
	for _, k := range slices.Sorted(maps.Keys(kv)) {
		options = append(options, &types.OptionValue{Key: k, Value: kv[k]})
	}
	return options
}

func (c *Client) machine(vm Ref) *object.VirtualMachine { return object.NewVirtualMachine(c.vim, vm) }

// PowerOn starts a VM. When it returns, the inventory shows the VM in the new run, or off after it: what the guest set in an
// earlier run is gone.
func (c *Client) PowerOn(ctx context.Context, vm Ref) error {
	last := hostapi.Run(0)
	if before := c.now(vm); before != nil {
		last = hostapi.RunOf(before.Extra)
	}
	if err := c.wait(ctx, c.machine(vm).PowerOn); err != nil {
		return failed(err, "power on VM %s", vm.Value)
	}
	return c.settle(ctx, vm, func(now *VM) bool { return now == nil || begun(now, last) })
}

// begun reports whether a run later than last has begun, or begun and ended. A host that does not count runs shows that by the
// power state alone.
func begun(now *VM, last hostapi.Run) bool {
	run := hostapi.RunOf(now.Extra)
	if now.PowerState == PoweredOn {
		return run > last || run == 0
	}
	return run > last && now.Extra[hostapi.KeyExit] != ""
}

// PowerOff ends a VM at once. A VM that is off already is no error. When it returns the inventory has shown the end of the run, and may show a
// later one that someone else has begun.
func (c *Client) PowerOff(ctx context.Context, vm Ref) error {
	ended := hostapi.Run(0)
	if before := c.now(vm); before != nil {
		ended = hostapi.RunOf(before.Extra)
	}
	err := c.wait(ctx, c.machine(vm).PowerOff)
	if err != nil && !fault.IsAlreadyPoweredOffError(err) && !c.isOff(vm, err) {
		return failed(err, "power off VM %s", vm.Value)
	}
	return c.settle(ctx, vm, func(now *VM) bool {
		return now == nil || now.PowerState != PoweredOn || hostapi.RunOf(now.Extra) > ended
	})
}

// isOff recognises the InvalidPowerState fault of a VM that ended by itself meanwhile.
func (c *Client) isOff(vm Ref, err error) bool {
	now := c.now(vm)
	return fault.Is(err, &types.InvalidPowerState{}) && now != nil && now.PowerState == PoweredOff
}

// ShutdownGuest asks the guest to power itself off in order, and does not wait for it.
func (c *Client) ShutdownGuest(ctx context.Context, vm Ref) error {
	return failed(c.machine(vm).ShutdownGuest(ctx), "shut down the guest of VM %s", vm.Value)
}

// Destroy removes a VM that is off, with its directory and its own disk.
func (c *Client) Destroy(ctx context.Context, vm Ref) error {
	if err := c.wait(ctx, c.machine(vm).Destroy); err != nil {
		return failed(err, "destroy VM %s", vm.Value)
	}
	return c.settle(ctx, vm, func(now *VM) bool { return now == nil })
}

// Reconfigure changes keys of extraConfig; an empty value removes a key.
func (c *Client) Reconfigure(ctx context.Context, vm Ref, extra map[string]string) error {
	return c.Change(ctx, vm, Change{Extra: extra})
}

// Change is what one reconfiguration of a VM changes; what is zero stays as it is.
type Change struct {
	CPUs      int
	CPULimit  *float64 // of the host's CPU time, in CPUs; 0: none
	MemoryMiB int
	Extra     map[string]string // keys of extraConfig; an empty value removes a key
	// RootParent is the datastore path of the disk of which the VM, which must have no disk, gets a delta as its root disk, in the
	// directory RootDir of the datastore.
	RootParent, RootDir string
	Disks               []DataDisk // that are attached
	Cards               CardChange
}

// Change reconfigures a VM, which may run: all of it or nothing. The guest can read the new keys once the disk is there, where the
// host keeps the contract of package hostapi (spec.md, "Order in one reconfiguration"). The error is of class
// errdefs.ErrConflict when another machine has something that it wants, a port or a disk: InUse.
func (c *Client) Change(ctx context.Context, vm Ref, change Change) error {
	spec := types.VirtualMachineConfigSpec{
		NumCPUs: int32(change.CPUs), MemoryMB: int64(change.MemoryMiB), ExtraConfig: optionValues(change.Extra),
	}
	var err error
	if change.CPULimit != nil {
		if spec.CpuAllocation, err = c.cpuLimit(ctx, *change.CPULimit); err != nil {
			return failed(err, "reconfigure VM %s", vm.Value)
		}
	}
	if spec.DeviceChange, err = c.cardSpecs(ctx, vm, change.Cards); err != nil {
		return failed(err, "reconfigure VM %s", vm.Value)
	}
	if change.RootParent != "" {
		spec.DeviceChange = append(spec.DeviceChange, c.rootDelta(change.RootDir, change.RootParent))
	}
	spec.DeviceChange = append(spec.DeviceChange, c.addDataDisks(change.Disks, scsiKey)...)
	if err := c.reconfigure(ctx, vm, spec); err != nil {
		return failed(err, "reconfigure VM %s", vm.Value)
	}
	return c.settle(ctx, vm, func(now *VM) bool {
		return now == nil || (change.CPUs == 0 || now.CPUs == change.CPUs) &&
			(change.MemoryMiB == 0 || now.MemoryMiB == change.MemoryMiB) && holds(now.Extra, change.Extra)
	})
}

// cpuLimit is a limit of CPU time, in CPUs, as vSphere has it: in MHz of the host's CPUs.
func (c *Client) cpuLimit(ctx context.Context, cpus float64) (*types.ResourceAllocationInfo, error) {
	if cpus == 0 {
		return &types.ResourceAllocationInfo{Limit: types.NewInt64(-1)}, nil
	}
	host, err := c.Host(ctx)
	if err != nil {
		return nil, err
	}
	return &types.ResourceAllocationInfo{Limit: types.NewInt64(max(1, int64(math.Round(cpus*float64(host.CPUMHz)))))}, nil
}

// holds reports whether all of part is in all; an empty value stands for none.
func holds(all, part map[string]string) bool {
	for k, v := range part {
		if all[k] != v {
			return false
		}
	}
	return true
}

// Rename changes a VM's name in the inventory, not its directory.
func (c *Client) Rename(ctx context.Context, vm Ref, name string) error {
	err := c.wait(ctx, func(ctx context.Context) (*object.Task, error) { return c.machine(vm).Rename(ctx, name) })
	if err != nil {
		return failed(err, "rename VM %s", vm.Value)
	}
	return c.settle(ctx, vm, func(now *VM) bool { return now == nil || now.Name == name })
}

func (c *Client) reconfigure(ctx context.Context, vm Ref, spec types.VirtualMachineConfigSpec) error {
	return c.wait(ctx, func(ctx context.Context) (*object.Task, error) { return c.machine(vm).Reconfigure(ctx, spec) })
}

// wait starts a task without a result and waits for its end.
func (c *Client) wait(ctx context.Context, start func(context.Context) (*object.Task, error)) error {
	_, err := c.run(ctx, start)
	return err
}

// settle waits until the inventory shows what an operation that has ended did, so that callers read their own writes.
// done gets nil when the VM does not exist.
func (c *Client) settle(ctx context.Context, vm Ref, done func(*VM) bool) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	if err := c.await(ctx, func() bool { return done(c.vms[vm]) }); err != nil {
		return fmt.Errorf("cannot see the change of VM %s that the host has made: %w", vm.Value, err)
	}
	return nil
}

// now is what the inventory holds of a VM, or nil.
func (c *Client) now(vm Ref) *VM {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.vms[vm]
}
