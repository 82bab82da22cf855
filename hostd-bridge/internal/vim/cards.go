package vim

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// firstCardUnit is the unit number of the first network card on the PCI controller, as on ESXi.
const firstCardUnit = 7

// findNetwork finds a network by its moref value.
type findNetwork func(ref string) (*vm.Network, bool)

// networkOf returns the name of a card's network, and the networks of its addresses.
func networkOf(card vm.Card, find findNetwork) (string, []netip.Prefix) {
	n, ok := find(card.Network)
	if !ok {
		return card.Network, nil // it cannot be removed as long as a card is there
	}
	return n.Name, n.Settings.Gateways
}

func cardDevice(card vm.Card, find findNetwork) *types.VirtualVmxnet3 {
	name, _ := networkOf(card, find)
	network := networkRef(card.Network)
	out := &types.VirtualVmxnet3{}
	out.VirtualDevice = device(card.Key, fmt.Sprintf("Network adapter %d", card.Slot()+1), name)
	out.ControllerKey, out.UnitNumber = pciKey, types.NewInt32(firstCardUnit+int32(card.Slot()))
	out.MacAddress, out.AddressType = card.MAC, string(types.VirtualEthernetCardMacTypeAssigned)
	out.Backing = &types.VirtualEthernetCardNetworkBackingInfo{
		VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: name}, Network: &network,
	}
	out.Connectable = &types.VirtualDeviceConnectInfo{
		StartConnected: card.Connected, Connected: card.Connected, AllowGuestControl: true,
	}
	return out
}

// networks is where networks are found; vmhost.Host has them.
type networks interface {
	Network(ref string) (*vm.Network, bool)
	NetworkNamed(name string) (*vm.Network, bool)
}

// cardReader reads changes of network cards.
type cardReader struct {
	networks networks
	vm       *vm.VM // whose cards are changed, or cloned; nil: it is to be made
	clone    bool
	into     *vm.CardChanges
}

func (r *cardReader) read(n int, spec *types.VirtualDeviceConfigSpec, d types.BaseVirtualEthernetCard) error {
	card := d.GetVirtualEthernetCard()
	switch spec.Operation {
	case types.VirtualDeviceConfigSpecOperationAdd:
		return r.add(n, d, card)
	case types.VirtualDeviceConfigSpecOperationRemove:
		r.into.Remove = append(r.into.Remove, card.Key)
		return nil
	case types.VirtualDeviceConfigSpecOperationEdit:
		return r.edit(n, card)
	}
	return invalidDevice(n, "a network adapter can be added, edited and removed: there is no operation %q", spec.Operation)
}

func (r *cardReader) add(n int, d types.BaseVirtualEthernetCard, card *types.VirtualEthernetCard) error {
	switch d.(type) {
	case *types.VirtualVmxnet3, *types.VirtualEthernetCard:
	default:
		kind := strings.ToLower(strings.TrimPrefix(fmt.Sprintf("%T", d), "*types.Virtual"))
		return invalidDevice(n, "network adapters of this host are vmxnet3, and no %s: ask for vmxnet3 (govc: -net.adapter vmxnet3)", kind)
	}
	network, err := r.network(n, card.Backing)
	if err != nil {
		return err
	}
	connected := card.Connectable == nil || card.Connectable.StartConnected || card.Connectable.Connected
	r.into.Add = append(r.into.Add, vm.Card{Key: card.Key, Network: network, NIC: vm.NIC{MAC: card.MacAddress, Connected: connected}})
	return nil
}

// edit takes over what an edit changes of a card. In a clone its MAC address counts only where the client says that it is its own: a
// client that edits the source's card sends that with the source's address.
func (r *cardReader) edit(n int, card *types.VirtualEthernetCard) error {
	if _, twice := r.into.Edit[card.Key]; twice {
		return invalidDevice(n, "the network adapter %d is edited twice", card.Key)
	}
	old := r.card(card.Key)
	if old == nil {
		return invalidDevice(n, "no network adapter has the key %d", card.Key)
	}
	var edit vm.CardEdit
	manual := card.AddressType == "" || card.AddressType == string(types.VirtualEthernetCardMacTypeManual)
	switch {
	case !r.clone && card.AddressType == string(types.VirtualEthernetCardMacTypeGenerated):
		return invalidDevice(n, "a network adapter gets a generated address when it is added: remove it and add it again, or name an address")
	case r.clone && manual, !r.clone && !strings.EqualFold(card.MacAddress, old.MAC):
		edit.MAC = card.MacAddress
	}
	if card.Backing != nil {
		var err error
		if edit.Network, err = r.network(n, card.Backing); err != nil {
			return err
		}
	}
	if card.Connectable != nil {
		connected := r.connected(card.Connectable)
		edit.Connected = &connected
	}
	if r.into.Edit == nil {
		r.into.Edit = map[int32]vm.CardEdit{}
	}
	r.into.Edit[card.Key] = edit
	return nil
}

// connected says what an edit makes of a card: one state stands for now and for the next power-on. Where they differ that
// counts which has an effect.
func (r *cardReader) connected(c *types.VirtualDeviceConnectInfo) bool {
	switch {
	case r.clone:
		return c.StartConnected || c.Connected
	case r.vm.Power == vm.PoweredOn:
		return c.Connected
	}
	return c.StartConnected
}

func (r *cardReader) card(key int32) *vm.Card {
	if r.vm == nil {
		return nil
	}
	for n := range r.vm.NICs {
		if r.vm.NICs[n].Key == key {
			return &r.vm.NICs[n]
		}
	}
	return nil
}

// network returns the moref value of the network that a backing names; without one it is the network that every host has.
func (r *cardReader) network(n int, backing types.BaseVirtualDeviceBackingInfo) (string, error) {
	if backing == nil {
		return vm.DefaultNetwork, nil
	}
	b, ok := backing.(*types.VirtualEthernetCardNetworkBackingInfo)
	if !ok {
		return "", invalidBacking("backing", "device %d: networks of this host are VirtualEthernetCardNetworkBackingInfo, not a %T", n, backing)
	}
	if b.DeviceName != "" {
		if network, found := r.networks.NetworkNamed(b.DeviceName); found {
			return network.Ref, nil
		}
		return "", invalidBacking("backing.deviceName", "device %d: this host has no network %q", n, b.DeviceName)
	}
	if b.Network != nil {
		if network, found := r.networks.Network(b.Network.Value); found {
			return network.Ref, nil
		}
		return "", invalidBacking("backing.network", "device %d: this host has no network %v", n, *b.Network)
	}
	return vm.DefaultNetwork, nil
}

func invalidBacking(property, format string, args ...any) error {
	return fault(&types.InvalidDeviceBacking{InvalidDeviceSpec: types.InvalidDeviceSpec{
		InvalidVmConfig: types.InvalidVmConfig{Property: property},
	}}, format, args...)
}
