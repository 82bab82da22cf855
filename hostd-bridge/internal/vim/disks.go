package vim

import (
	"fmt"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

func diskDevice(d *vm.Disk) *types.VirtualDisk {
	file := func(rel string) types.VirtualDeviceFileBackingInfo {
		store := datastoreRef
		return types.VirtualDeviceFileBackingInfo{FileName: datastore.FormatPath(rel), Datastore: &store}
	}
	backing := &types.VirtualDiskFlatVer2BackingInfo{
		VirtualDeviceFileBackingInfo: file(d.Path), DiskMode: string(types.VirtualDiskModePersistent), ThinProvisioned: types.NewBool(true),
	}
	if d.Parent != "" {
		backing.Parent = &types.VirtualDiskFlatVer2BackingInfo{
			VirtualDeviceFileBackingInfo: file(d.Parent), DiskMode: string(types.VirtualDiskModePersistent),
		}
	}
	out := &types.VirtualDisk{
		VirtualDevice:   device(diskKey, "Hard disk 1", fmt.Sprintf("%d KB", hostapi.DiskBytes>>10)),
		CapacityInBytes: hostapi.DiskBytes, CapacityInKB: hostapi.DiskBytes >> 10,
	}
	out.Backing, out.ControllerKey, out.UnitNumber = backing, scsiKey, types.NewInt32(0)
	return out
}

func diskChange(n int, spec *types.VirtualDeviceConfigSpec, d *types.VirtualDisk, c *vm.Change) error {
	if c.Disk != nil {
		return invalidDevice(n, "a VM has one disk, and a change of it is one")
	}
	switch spec.Operation {
	case types.VirtualDeviceConfigSpecOperationRemove:
		if d.Key != diskKey {
			return invalidDevice(n, "no disk has the key %d", d.Key)
		}
		c.Disk = &vm.DiskChange{Remove: true, Drop: spec.FileOperation == types.VirtualDeviceConfigSpecFileOperationDestroy}
		return nil
	case types.VirtualDeviceConfigSpecOperationAdd:
		change, err := diskAdded(n, spec, d)
		c.Disk = change
		return err
	}
	return invalidDevice(n, "a disk can be added and removed, not changed")
}

func diskAdded(n int, spec *types.VirtualDeviceConfigSpec, d *types.VirtualDisk) (*vm.DiskChange, error) {
	backing, ok := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	if !ok {
		return nil, invalidDevice(n, "a disk's backing is a VirtualDiskFlatVer2BackingInfo, not a %T", d.Backing)
	}
	if max(d.CapacityInBytes, d.CapacityInKB<<10) > hostapi.DiskBytes {
		return nil, invalidDevice(n, "every disk has %d GiB, more is not possible", hostapi.DiskBytes>>30)
	}
	change := &vm.DiskChange{}
	switch spec.FileOperation {
	case types.VirtualDeviceConfigSpecFileOperationCreate:
		change.Create = true
	case "":
	default:
		return nil, invalidDevice(n, "file operation %q is not possible when a disk is added", spec.FileOperation)
	}
	var err error
	if change.Path, err = diskPath(backing.FileName); err != nil {
		return nil, err
	}
	if backing.Parent != nil {
		change.Parent, err = diskPath(backing.Parent.FileName)
	}
	return change, err
}

// diskPath returns the path of a disk's file; one that names only the datastore, or nothing, leaves it to the host.
func diskPath(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	rel, err := datastore.ParsePath(name)
	if rel == "." {
		rel = ""
	}
	return rel, err
}
