package vsphere

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// Card is a network card of a VM.
type Card struct {
	Slot    int    // 0 to hostapi.MaxCards-1; its device key is hostapi.FirstCardKey + Slot
	Network string // vSphere's name of the network; empty: the host's default
	MAC     string // empty: the host chooses
	// Unplugged cards are there and connected to nothing, also when the VM is powered on.
	Unplugged bool
}

// CardChange says what cards a VM has, as far as they are changed, and what it is to have in their place. A card is known by its
// slot.
type CardChange struct{ From, To []Card }

// cardSpecs returns the change of a VM's cards as vSphere takes it, without those cards that stay as they are; of a new VM vm is zero.
func (c *Client) cardSpecs(ctx context.Context, vm Ref, change CardChange) (specs []types.BaseVirtualDeviceConfigSpec, err error) {
	has, err := c.cardDevices(ctx, vm, change.From)
	if err != nil {
		return nil, err
	}
	for _, was := range change.From {
		if _, stays := inSlot(change.To, was.Slot); !stays {
			specs = append(specs, &types.VirtualDeviceConfigSpec{
				Operation: types.VirtualDeviceConfigSpecOperationRemove, Device: has[was.Slot],
			})
		}
	}
	for _, card := range change.To {
		was, there := inSlot(change.From, card.Slot)
		spec := &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationEdit, Device: has[card.Slot]}
		switch {
		case was == card && there:
			continue
		case !there:
			spec.Operation = types.VirtualDeviceConfigSpecOperationAdd
			spec.Device = newCard(card.Slot)
		}
		if err := c.describe(ctx, spec.Device, card); err != nil {
			return nil, err
		}
		specs = append(specs, spec)
	}
	return specs, nil
}

func inSlot(cards []Card, slot int) (Card, bool) {
	i := slices.IndexFunc(cards, func(card Card) bool { return card.Slot == slot })
	if i < 0 {
		return Card{}, false
	}
	return cards[i], true
}

// cardDevices are the devices that cards of a VM are, by slot. A host with hostapi.ExtensionNetworks knows a card by its key; another is
// asked for the whole device, which it wants back.
func (c *Client) cardDevices(ctx context.Context, vm Ref, cards []Card) (map[int]types.BaseVirtualDevice, error) {
	found := map[int]types.BaseVirtualDevice{}
	for _, card := range cards {
		device := newCard(card.Slot)
		if err := c.describe(ctx, device, card); err != nil {
			return nil, err
		}
		found[card.Slot] = device
	}
	if len(cards) == 0 || c.Has(hostapi.ExtensionNetworks) {
		return found, nil
	}
	devices, err := c.machine(vm).Device(ctx)
	if err != nil {
		return nil, err
	}
	for _, card := range cards {
		device := devices.FindByKey(cardKey(card.Slot))
		if device == nil {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("it has no network card with the key %d", cardKey(card.Slot)))
		}
		found[card.Slot] = device
	}
	return found, nil
}

// cardKey is the key by which vSphere knows the card in a slot.
func cardKey(slot int) int32 { return hostapi.FirstCardKey + int32(slot) }

func newCard(slot int) types.BaseVirtualDevice {
	card := &types.VirtualVmxnet3{}
	card.Key = cardKey(slot)
	return card
}

// describe makes a device what a card is to be.
func (c *Client) describe(ctx context.Context, device types.BaseVirtualDevice, card Card) (err error) {
	ethernet, ok := device.(types.BaseVirtualEthernetCard)
	if !ok {
		return fmt.Errorf("the device with the key %d is no network card", device.GetVirtualDevice().Key)
	}
	nic := ethernet.GetVirtualEthernetCard()
	if nic.Backing, err = c.cardBacking(ctx, cmp.Or(card.Network, c.place.networkName)); err != nil {
		return err
	}
	nic.Connectable = &types.VirtualDeviceConnectInfo{StartConnected: !card.Unplugged, Connected: !card.Unplugged, AllowGuestControl: true}
	nic.AddressType, nic.MacAddress = "", card.MAC
	if card.MAC != "" {
		nic.AddressType = string(types.VirtualEthernetCardMacTypeManual)
	}
	return nil
}

// SetNetwork tells the host's switch of a network what it is to be like, on a host with hostapi.ExtensionNetworks.
func (c *Client) SetNetwork(ctx context.Context, name string, settings hostapi.NetworkSettings) error {
	if err := c.host.SetNetwork(ctx, name, settings); err != nil {
		return fmt.Errorf("cannot set up network %s: %w", name, err)
	}
	return nil
}

// HostNetworks is what the host tells of its networks and their switches; nothing on a host without hostapi.ExtensionNetworks.
func (c *Client) HostNetworks(ctx context.Context) (hostapi.Networks, error) {
	all, err := c.host.Networks(ctx)
	if err != nil && !errdefs.IsNotImplemented(err) {
		return hostapi.Networks{}, fmt.Errorf("cannot learn of the host's networks: %w", err)
	}
	return all, nil
}
