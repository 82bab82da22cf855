package vim

import (
	"fmt"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// Keys of devices, those that ESXi gives them.
const (
	pciKey  = 100
	scsiKey = 1000
	diskKey = 2000
	vmciKey = 12000
)

// firstCardUnit is the unit number of the first network card on the PCI controller, as on ESXi.
const firstCardUnit = 7

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

func cardDevice(n int, card vm.Card) *types.VirtualVmxnet3 {
	network := networkRef
	out := &types.VirtualVmxnet3{}
	out.VirtualDevice = device(card.Key, fmt.Sprintf("Network adapter %d", n+1), NetworkName)
	out.ControllerKey, out.UnitNumber = pciKey, types.NewInt32(firstCardUnit+int32(n))
	out.MacAddress, out.AddressType = card.MAC, string(types.VirtualEthernetCardMacTypeAssigned)
	out.Backing = &types.VirtualEthernetCardNetworkBackingInfo{
		VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: NetworkName}, Network: &network,
	}
	out.Connectable = &types.VirtualDeviceConnectInfo{
		StartConnected: card.Connected, Connected: card.Connected, AllowGuestControl: true,
	}
	return out
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

func cardChange(n int, spec *types.VirtualDeviceConfigSpec, card *types.VirtualEthernetCard, c *vm.Change) error {
	switch spec.Operation {
	case types.VirtualDeviceConfigSpecOperationAdd:
		connected := card.Connectable == nil || card.Connectable.StartConnected || card.Connectable.Connected
		c.AddNICs = append(c.AddNICs, vm.Card{Key: card.Key, NIC: vm.NIC{MAC: card.MacAddress, Connected: connected}})
		return nil
	case types.VirtualDeviceConfigSpecOperationRemove:
		c.RemoveNICs = append(c.RemoveNICs, card.Key)
		return nil
	}
	return invalidDevice(n, "a network card can be added and removed, not changed")
}
