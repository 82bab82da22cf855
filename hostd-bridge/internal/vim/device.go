package vim

import (
	"fmt"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// Keys of devices, those that ESXi gives them.
const (
	pciKey  = 100
	scsiKey = 1000
	diskKey = 2000
	vmciKey = 12000
)

// devices are a VM's devices as clients see them. What QEMU really has in their places is virtio; the names are those
// that vSphere has for them.
func devices(v *vm.VM) []types.BaseVirtualDevice {
	scsi := &types.ParaVirtualSCSIController{VirtualSCSIController: types.VirtualSCSIController{
		SharedBus: types.VirtualSCSISharingNoSharing, ScsiCtlrUnitNumber: 7,
		VirtualController: types.VirtualController{VirtualDevice: device(scsiKey, "SCSI controller 0", "VMware paravirtual SCSI")},
	}}
	vmci := &types.VirtualMachineVMCIDevice{VirtualDevice: device(vmciKey, "VMCI device", "vsock context ID"), Id: int64(v.CID)}
	out := []types.BaseVirtualDevice{scsi, vmci}
	if v.Disk != nil {
		scsi.Device = []int32{diskKey}
		out = append(out, diskDevice(v.Disk))
	}
	for n, card := range v.NICs {
		out = append(out, cardDevice(n, card))
	}
	return out
}

func device(key int32, label, summary string) types.VirtualDevice {
	return types.VirtualDevice{Key: key, DeviceInfo: &types.Description{Label: label, Summary: summary}}
}

// deviceChanges puts the changes of devices in a spec into c. What this kind of host has no such device for is refused,
// except controllers: every VM has the one it needs.
func deviceChanges(changes []types.BaseVirtualDeviceConfigSpec, c *vm.Change) error {
	for n, change := range changes {
		spec := change.GetVirtualDeviceConfigSpec()
		if spec.Device == nil {
			return invalidDevice(n, "no device")
		}
		var err error
		switch d := spec.Device.(type) {
		case *types.VirtualDisk:
			err = diskChange(n, spec, d, c)
		case types.BaseVirtualEthernetCard:
			err = cardChange(n, spec, d.GetVirtualEthernetCard(), c)
		case types.BaseVirtualController:
		default:
			err = invalidDevice(n, "this host has no device of type %T", d)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func invalidDevice(index int, format string, args ...any) error {
	return fault(&types.InvalidDeviceSpec{DeviceIndex: int32(index)}, "invalid device %d: %s", index, fmt.Sprintf(format, args...))
}
