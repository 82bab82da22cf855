package vim

import (
	"cmp"
	"fmt"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// diskDevices are a VM's disks: that in its root slot has unit 0.
func diskDevices(v *vm.VM) []*types.VirtualDisk {
	var out []*types.VirtualDisk
	add := func(d *vm.UnitDisk) {
		out = append(out, diskDevice(d, fmt.Sprintf("Hard disk %d", len(out)+1)))
	}
	if v.Disk != nil {
		add(&vm.UnitDisk{Disk: *v.Disk, Bytes: hostapi.DiskBytes})
	}
	for n := range v.DataDisks {
		add(&v.DataDisks[n])
	}
	return out
}

func diskDevice(d *vm.UnitDisk, label string) *types.VirtualDisk {
	file := func(rel string) types.VirtualDeviceFileBackingInfo {
		store := datastoreRef
		return types.VirtualDeviceFileBackingInfo{FileName: datastore.FormatPath(rel), Datastore: &store}
	}
	mode := types.VirtualDiskModePersistent
	if d.ReadOnly {
		mode = types.VirtualDiskModeIndependent_nonpersistent
	}
	backing := &types.VirtualDiskFlatVer2BackingInfo{
		VirtualDeviceFileBackingInfo: file(d.Path), DiskMode: string(mode), ThinProvisioned: types.NewBool(true),
	}
	if d.Parent != "" {
		backing.Parent = &types.VirtualDiskFlatVer2BackingInfo{
			VirtualDeviceFileBackingInfo: file(d.Parent), DiskMode: string(types.VirtualDiskModePersistent),
		}
	}
	out := &types.VirtualDisk{
		VirtualDevice:   device(hostapi.FirstDiskKey+int32(d.Unit), label, fmt.Sprintf("%d KB", d.Bytes>>10)),
		CapacityInBytes: d.Bytes, CapacityInKB: d.Bytes >> 10,
	}
	out.Backing, out.ControllerKey, out.UnitNumber = backing, scsiKey, types.NewInt32(int32(d.Unit))
	return out
}

// diskChange puts a change of a disk into c.
func diskChange(n int, spec *types.VirtualDeviceConfigSpec, d *types.VirtualDisk, c *vm.Change) error {
	change, err := changedDisk(n, spec, d)
	switch {
	case err != nil:
		return err
	case c.Disk != nil && (change.Unit == vm.RootSlot || (change.Unit == vm.AnyUnit && c.Disk.Remove)):
		return invalidDevice(n, "a VM has one disk with unit 0, and a change of it is one")
	case change.Unit == vm.AnyUnit && c.Disk == nil: // what is no root disk is a data disk, see vm.AnyUnit
		c.Disk = change
	case change.Unit == vm.RootSlot:
		c.Disk = change
	default:
		c.DataDisks = append(c.DataDisks, *change)
	}
	return nil
}

func changedDisk(n int, spec *types.VirtualDeviceConfigSpec, d *types.VirtualDisk) (*vm.DiskChange, error) {
	switch spec.Operation {
	case types.VirtualDeviceConfigSpecOperationRemove:
		unit := int(d.Key) - hostapi.FirstDiskKey
		if unit < 0 || unit > hostapi.MaxDataDisks+1 {
			return nil, invalidDevice(n, "no disk has the key %d", d.Key)
		}
		drop := spec.FileOperation == types.VirtualDeviceConfigSpecFileOperationDestroy
		if !drop && spec.FileOperation != "" {
			return nil, invalidDevice(n, "file operation %q is not possible when a disk is removed", spec.FileOperation)
		}
		return &vm.DiskChange{Unit: unit, Remove: true, Drop: drop}, nil
	case types.VirtualDeviceConfigSpecOperationAdd:
		return diskAdded(n, spec, d)
	}
	return nil, invalidDevice(n, "a disk can be added and removed, not changed: ExtendVirtualDisk_Task gives one that is not in use another size")
}

func diskAdded(n int, spec *types.VirtualDeviceConfigSpec, d *types.VirtualDisk) (*vm.DiskChange, error) {
	backing, ok := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	if !ok {
		return nil, invalidDevice(n, "a disk's backing is a VirtualDiskFlatVer2BackingInfo, not a %T", d.Backing)
	}
	change := &vm.DiskChange{Unit: vm.AnyUnit}
	if d.UnitNumber != nil && *d.UnitNumber != -1 {
		change.Unit = int(*d.UnitNumber)
	}
	switch spec.FileOperation {
	case types.VirtualDeviceConfigSpecFileOperationCreate:
		change.Create = true
		if max(d.CapacityInBytes, d.CapacityInKB<<10) > hostapi.DiskBytes {
			return nil, invalidDevice(n, "every new disk has %d GiB, more is not possible: ExtendVirtualDisk_Task makes one larger", hostapi.DiskBytes>>30)
		}
	case "":
	default:
		return nil, invalidDevice(n, "file operation %q is not possible when a disk is added", spec.FileOperation)
	}
	var err error
	if change.ReadOnly, err = readOnly(n, change.Unit, backing); err != nil {
		return nil, err
	}
	if key := d.ControllerKey; change.Unit > 0 && key > 0 && key != scsiKey {
		return nil, invalidDevice(n, "a VM's disks are at its SCSI controller, which has the key %d, not %d", scsiKey, key)
	}
	if change.Path, err = diskPath(backing.FileName); err != nil {
		return nil, err
	}
	if backing.Parent != nil {
		change.Parent, err = diskPath(backing.Parent.FileName)
	}
	return change, err
}

// readOnly says whether a VM is not to write to a disk. Independent modes differ from others in what snapshots of VMs do, which this
// host has none of.
func readOnly(n, unit int, backing *types.VirtualDiskFlatVer2BackingInfo) (bool, error) {
	if s := backing.Sharing; s != "" && s != string(types.VirtualDiskSharingSharingNone) {
		return false, invalidDevice(n, "sharing %q is not possible: one VM writes to a disk at a time, or many read it", s)
	}
	switch mode := types.VirtualDiskMode(cmp.Or(backing.DiskMode, string(types.VirtualDiskModePersistent))); mode {
	case types.VirtualDiskModePersistent, types.VirtualDiskModeIndependent_persistent:
		return false, nil
	case types.VirtualDiskModeIndependent_nonpersistent:
		if unit < 1 {
			return false, invalidDevice(n, "disk mode %q needs a unit number from 1: the root disk is written to", mode)
		}
		return true, nil
	default:
		return false, invalidDevice(n, "disk mode %q is not possible: it is %s, or %s for a disk that is only read", mode,
			types.VirtualDiskModePersistent, types.VirtualDiskModeIndependent_nonpersistent)
	}
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
