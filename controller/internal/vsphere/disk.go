package vsphere

import (
	"context"
	"errors"
	"fmt"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

const (
	// controllerKey and diskKey are the keys of the one SCSI controller and of its disk in a new VM's configuration. Keys
	// of new devices are negative by convention (vSphere API reference, VirtualDeviceConfigSpec).
	controllerKey = -100
	diskKey       = -101
)

var errNoDisk = errors.New("it has none")

func newController() types.BaseVirtualDevice {
	return &types.ParaVirtualSCSIController{VirtualSCSIController: types.VirtualSCSIController{
		SharedBus:         types.VirtualSCSISharingNoSharing,
		VirtualController: types.VirtualController{VirtualDevice: types.VirtualDevice{Key: controllerKey}},
	}}
}

// newDelta adds a new disk that is a delta of parent; both are paths in the datastore.
func (c *Client) newDelta(path, parent string) *types.VirtualDeviceConfigSpec {
	return &types.VirtualDeviceConfigSpec{
		Operation:     types.VirtualDeviceConfigSpecOperationAdd,
		FileOperation: types.VirtualDeviceConfigSpecFileOperationCreate,
		Device: &types.VirtualDisk{
			CapacityInKB: hostapi.DiskBytes >> 10,
			VirtualDevice: types.VirtualDevice{
				Key:           diskKey,
				ControllerKey: controllerKey,
				UnitNumber:    types.NewInt32(0),
				Backing: &types.VirtualDiskFlatVer2BackingInfo{
					VirtualDeviceFileBackingInfo: c.fileBacking(path),
					DiskMode:                     string(types.VirtualDiskModePersistent),
					ThinProvisioned:              types.NewBool(true),
					Parent:                       &types.VirtualDiskFlatVer2BackingInfo{VirtualDeviceFileBackingInfo: c.fileBacking(parent)},
				},
			},
		},
	}
}

func (c *Client) fileBacking(path string) types.VirtualDeviceFileBackingInfo {
	ds := c.place.datastore.Reference()
	return types.VirtualDeviceFileBackingInfo{FileName: c.path(path), Datastore: &ds}
}

// AttachDelta makes the disk path as a delta of the disk parent and adds it to a VM, which may run. The VM must have
// no disk; both paths are in the datastore, and path must not exist.
func (c *Client) AttachDelta(ctx context.Context, vm Ref, path, parent string) error {
	devices, err := c.machine(vm).Device(ctx)
	if err != nil {
		return failed(err, "attach disk %s to VM %s", path, vm.Value)
	}
	change := c.newDelta(path, parent)
	if found := devices.SelectByType((*types.VirtualSCSIController)(nil)); len(found) > 0 {
		change.Device.GetVirtualDevice().ControllerKey = found[0].GetVirtualDevice().Key
	}
	err = c.reconfigure(ctx, vm, types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{change}})
	return failed(err, "attach disk %s to VM %s", path, vm.Value)
}

// DetachDisk takes the disk from a VM, which may run; the file is kept.
func (c *Client) DetachDisk(ctx context.Context, vm Ref) error {
	disk, err := c.disk(ctx, vm)
	if err == nil {
		err = c.machine(vm).RemoveDevice(ctx, true, disk)
	}
	return failed(err, "detach the disk of VM %s", vm.Value)
}

func (c *Client) disk(ctx context.Context, vm Ref) (types.BaseVirtualDevice, error) {
	devices, err := c.machine(vm).Device(ctx)
	if err != nil {
		return nil, err
	}
	disks := devices.SelectByType((*types.VirtualDisk)(nil))
	if len(disks) == 0 {
		return nil, errNoDisk
	}
	return disks[0], nil
}

// path is a datastore path in the form of the vSphere API: "[local] a/b".
func (c *Client) path(rel string) string {
	if rel == "" {
		return fmt.Sprintf("[%s]", c.place.datastore.Name())
	}
	return (&object.DatastorePath{Datastore: c.place.datastore.Name(), Path: rel}).String()
}
