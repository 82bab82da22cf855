package vim

import (
	"fmt"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// firstCardUnit is the unit number of the first network card on the PCI controller, as on ESXi.
const firstCardUnit = 7

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

// cloneCard takes over the edit of a network card. Its MAC address counts only where the client says that it is its own: a
// client that edits the source's card sends that with the source's address.
func cloneCard(n int, src *vm.VM, spec *types.VirtualDeviceConfigSpec, card *types.VirtualEthernetCard, clone *vm.CloneSpec) error {
	if spec.Operation != types.VirtualDeviceConfigSpecOperationEdit {
		return invalidDevice(n, "the network cards of an instant clone can be edited, not added and removed")
	}
	if _, twice := clone.NICs[card.Key]; twice {
		return invalidDevice(n, "the network card %d is edited twice", card.Key)
	}
	nic, found := vm.NIC{}, false
	for _, c := range src.NICs {
		if c.Key == card.Key {
			nic.Connected, found = c.Connected, true
		}
	}
	if !found {
		return invalidDevice(n, "no network card has the key %d", card.Key)
	}
	if card.Connectable != nil {
		nic.Connected = card.Connectable.StartConnected || card.Connectable.Connected
	}
	if kind := card.AddressType; kind == "" || kind == string(types.VirtualEthernetCardMacTypeManual) {
		nic.MAC = card.MacAddress
	}
	if clone.NICs == nil {
		clone.NICs = map[int32]vm.NIC{}
	}
	clone.NICs[card.Key] = nic
	return nil
}
