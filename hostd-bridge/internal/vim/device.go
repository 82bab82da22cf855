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
	vmciKey = 12000
)

// devices are a VM's devices as clients see them. What QEMU really has in their places is virtio; the names are those
// that vSphere has for them.
func devices(v *vm.VM, find findNetwork) []types.BaseVirtualDevice {
	scsi := &types.ParaVirtualSCSIController{VirtualSCSIController: types.VirtualSCSIController{
		SharedBus: types.VirtualSCSISharingNoSharing, ScsiCtlrUnitNumber: 7,
		VirtualController: types.VirtualController{VirtualDevice: device(scsiKey, "SCSI controller 0", "VMware paravirtual SCSI")},
	}}
	vmci := &types.VirtualMachineVMCIDevice{VirtualDevice: device(vmciKey, "VMCI device", "vsock context ID"), Id: int64(v.CID)}
	out := []types.BaseVirtualDevice{scsi, vmci}
	for _, disk := range diskDevices(v) {
		scsi.Device = append(scsi.Device, disk.Key)
		out = append(out, disk)
	}
	for _, card := range v.NICs {
		out = append(out, cardDevice(card, find))
	}
	return out
}

func device(key int32, label, summary string) types.VirtualDevice {
	return types.VirtualDevice{Key: key, DeviceInfo: &types.Description{Label: label, Summary: summary}}
}

// deviceChanges puts the changes of devices in a spec into change. in has the networks of its cards; v is the VM that is changed; nil: one that is to be made. What this
// kind of host has no such device for is refused, except controllers: every VM has the one it needs.
func deviceChanges(in networks, v *vm.VM, changes []types.BaseVirtualDeviceConfigSpec, change *vm.Change) error {
	cards := cardReader{networks: in, vm: v, into: &change.Cards}
	for n, of := range changes {
		spec := of.GetVirtualDeviceConfigSpec()
		if spec.Device == nil {
			return invalidDevice(n, "no device")
		}
		var err error
		switch d := spec.Device.(type) {
		case *types.VirtualDisk:
			err = diskChange(n, spec, d, change)
		case types.BaseVirtualEthernetCard:
			err = cards.read(n, spec, d)
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
