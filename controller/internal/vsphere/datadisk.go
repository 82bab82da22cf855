package vsphere

import (
	"context"
	"slices"

	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"
)

// DataDisk is a disk of a VM beside its root disk. It is a file of its own, which stays when the VM goes, as long as it is detached first:
// a vCenter destroys all disks that a VM has.
type DataDisk struct {
	Unit     int    // of the SCSI controller, 1 to 15, but 7
	Path     string // in the datastore
	ReadOnly bool   // nothing of what the guest writes reaches the file
}

// dataDiskKey is the key in a request of the new disk with unit 0, and others follow below.
const dataDiskKey = -200

// addDataDisks adds disks, whose files exist, to the SCSI controller with a key.
func (c *Client) addDataDisks(disks []DataDisk, controller int32) []types.BaseVirtualDeviceConfigSpec {
	var changes []types.BaseVirtualDeviceConfigSpec
	for _, d := range disks {
		mode := types.VirtualDiskModePersistent
		if d.ReadOnly {
			mode = types.VirtualDiskModeIndependent_nonpersistent
		}
		changes = append(changes, &types.VirtualDeviceConfigSpec{
			Operation: types.VirtualDeviceConfigSpecOperationAdd,
			Device: &types.VirtualDisk{VirtualDevice: types.VirtualDevice{
				Key: int32(dataDiskKey - d.Unit), ControllerKey: controller, UnitNumber: types.NewInt32(int32(d.Unit)),
				Backing: &types.VirtualDiskFlatVer2BackingInfo{
					VirtualDeviceFileBackingInfo: c.fileBacking(d.Path), DiskMode: string(mode), ThinProvisioned: types.NewBool(true),
				},
			}},
		})
	}
	return changes
}

// AttachDisks gives a VM, which may run, disks whose files exist, and changes keys of extraConfig with the same operation; an empty value
// removes a key. The error is of class errdefs.ErrConflict when a VM that is on has one of the files so that this one cannot.
func (c *Client) AttachDisks(ctx context.Context, vm Ref, disks []DataDisk, extra map[string]string) error {
	err := c.reconfigure(ctx, vm, types.VirtualMachineConfigSpec{
		DeviceChange: c.addDataDisks(disks, scsiKey), ExtraConfig: optionValues(extra),
	})
	if err != nil {
		return failed(err, "attach disks to VM %s", vm.Value)
	}
	return c.settle(ctx, vm, func(now *VM) bool { return now == nil || holds(now.Extra, extra) })
}

// DetachDisks takes the disks with unit numbers from a VM, and changes keys of extraConfig with the same operation. The files stay.
func (c *Client) DetachDisks(ctx context.Context, vm Ref, units []int, extra map[string]string) error {
	devices, err := c.machine(vm).Device(ctx)
	if err != nil {
		return failed(err, "detach disks of VM %s", vm.Value)
	}
	var changes []types.BaseVirtualDeviceConfigSpec
	for _, d := range devices.SelectByType((*types.VirtualDisk)(nil)) {
		unit := d.GetVirtualDevice().UnitNumber
		if unit != nil && slices.Contains(units, int(*unit)) {
			changes = append(changes, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationRemove, Device: d})
		}
	}
	err = c.reconfigure(ctx, vm, types.VirtualMachineConfigSpec{DeviceChange: changes, ExtraConfig: optionValues(extra)})
	if err != nil {
		return failed(err, "detach disks of VM %s", vm.Value)
	}
	return c.settle(ctx, vm, func(now *VM) bool { return now == nil || holds(now.Extra, extra) })
}

// CopyDisk makes the disk to as a whole copy of the disk from. Paths here and below are relative to the datastore's root. The error is of
// class errdefs.ErrAlreadyExists when there is a file to.
func (c *Client) CopyDisk(ctx context.Context, from, to string) error {
	dc := c.place.datacenter
	err := c.wait(ctx, func(ctx context.Context) (*object.Task, error) {
		return c.disks().CopyVirtualDisk(ctx, c.path(from), dc, c.path(to), dc, &types.VirtualDiskSpec{
			DiskType: string(types.VirtualDiskTypeThin), AdapterType: string(types.VirtualDiskAdapterTypeLsiLogic),
		}, false)
	})
	return failed(err, "copy disk %s to %s", from, to)
}

// ExtendDisk gives a disk that no VM has another size, in bytes, which must not be smaller than its own.
func (c *Client) ExtendDisk(ctx context.Context, name string, size int64) error {
	err := c.wait(ctx, func(ctx context.Context) (*object.Task, error) {
		return c.disks().ExtendVirtualDisk(ctx, c.path(name), c.place.datacenter, size>>10, types.NewBool(false))
	})
	return failed(err, "extend disk %s", name)
}

// DeleteDisk removes a disk that no VM has; one that does not exist is no error.
func (c *Client) DeleteDisk(ctx context.Context, name string) error {
	err := c.wait(ctx, func(ctx context.Context) (*object.Task, error) {
		return c.disks().DeleteVirtualDisk(ctx, c.path(name), c.place.datacenter)
	})
	if fault.Is(err, &types.FileNotFound{}) {
		return nil
	}
	return failed(err, "delete disk %s", name)
}

func (c *Client) disks() *object.VirtualDiskManager { return object.NewVirtualDiskManager(c.vim) }

// DatastorePath is how vSphere writes the path of a file: "[local] a/b".
func (c *Client) DatastorePath(name string) string { return c.path(name) }
