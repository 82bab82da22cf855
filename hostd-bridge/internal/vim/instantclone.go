package vim

import (
	"context"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

func instantClone(c *call, req *types.InstantClone_Task) (*types.InstantClone_TaskResponse, error) {
	src, err := c.vm(req.This)
	if err != nil {
		return nil, err
	}
	clone := vm.CloneSpec{Name: req.Spec.Name, UUID: req.Spec.BiosUuid, Extra: map[string]string{}}
	for _, option := range req.Spec.Config {
		o := option.GetOptionValue()
		clone.Extra[o.Key] = text(o.Value)
	}
	if err := c.place(&req.Spec.Location, &clone); err != nil {
		return nil, err
	}
	if err := c.cloneDevices(src, req.Spec.Location.DeviceChange, &clone); err != nil {
		return nil, err
	}
	task := c.server.tasks.start(c, req.This, src.Name, func(ctx context.Context) (types.AnyType, error) {
		ref, err := c.server.Inventory.InstantClone(ctx, src.Ref, clone)
		if err != nil {
			return nil, err
		}
		return vmRef(ref), nil
	})
	return &types.InstantClone_TaskResponse{Returnval: task}, nil
}

// place takes over where a clone is to be. The one folder, datastore and host are what they can be.
func (c *call) place(at *types.VirtualMachineRelocateSpec, clone *vm.CloneSpec) error {
	for _, only := range []struct {
		asked *types.ManagedObjectReference
		is    types.ManagedObjectReference
	}{{at.Folder, vmFolderRef}, {at.Datastore, datastoreRef}, {at.Host, hostRef}} {
		if only.asked != nil && *only.asked != only.is {
			return notFound(*only.asked)
		}
	}
	if at.Pool != nil {
		if _, ok := c.server.Inventory.Pool(at.Pool.Value); !ok || at.Pool.Type != "ResourcePool" {
			return notFound(*at.Pool)
		}
		clone.Pool = at.Pool.Value
	}
	if at.Service != nil || len(at.Disk) > 0 || len(at.Profile) > 0 || at.CryptoSpec != nil || at.DiskMoveType != "" || at.Transform != "" {
		return fault(&types.NotSupported{}, "An instant clone's location is a folder, a datastore, a host, a resource pool and changes of devices, and nothing else.")
	}
	return nil
}

// cloneDevices takes over the changes of devices that vSphere allows in an instant clone, edits of network cards, and more: that cards
// are added and removed, and the extension diskAtFork, disks that are added. File-backed ports can be edited too where there are any.
func (c *call) cloneDevices(src *vm.VM, changes []types.BaseVirtualDeviceConfigSpec, clone *vm.CloneSpec) error {
	disk := vm.Change{}
	cards := cardReader{networks: c.server.Inventory, vm: src, clone: true, into: &clone.Cards}
	for n, change := range changes {
		spec := change.GetVirtualDeviceConfigSpec()
		var err error
		switch d := spec.Device.(type) {
		case types.BaseVirtualEthernetCard:
			err = cards.read(n, spec, d)
		case *types.VirtualDisk:
			if c.server.NoDiskAtFork || spec.Operation != types.VirtualDeviceConfigSpecOperationAdd {
				return invalidDevice(n, "an instant clone has the disks of its source")
			}
			err = diskChange(n, spec, d, &disk)
		default:
			err = invalidDevice(n, "an instant clone has the devices of its source: a %T cannot be changed", d)
		}
		if err != nil {
			return err
		}
	}
	clone.Disk, clone.DataDisks = disk.Disk, disk.DataDisks
	return nil
}
