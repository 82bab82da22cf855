package vsphere

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"

	"github.com/vmware/govmomi/object"
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

// key is the key by which vSphere knows the card.
func (card Card) key() int32 { return hostapi.FirstCardKey + int32(card.Slot) }

// CardChange says what cards a VM has, as far as they are changed, and what it is to have in their place. A card is known by its
// slot.
type CardChange struct{ From, To []Card }

// cardSpecs returns the change as vSphere takes it, without those cards that stay as they are.
func (c *Client) cardSpecs(ctx context.Context, change CardChange) ([]types.BaseVirtualDeviceConfigSpec, error) {
	var specs []types.BaseVirtualDeviceConfigSpec
	add := func(op types.VirtualDeviceConfigSpecOperation, card Card) error {
		device, err := c.cardDevice(ctx, card)
		specs = append(specs, &types.VirtualDeviceConfigSpec{Operation: op, Device: device})
		return err
	}
	inSlot := func(cards []Card, slot int) (Card, bool) {
		i := slices.IndexFunc(cards, func(card Card) bool { return card.Slot == slot })
		if i < 0 {
			return Card{}, false
		}
		return cards[i], true
	}
	for _, was := range change.From {
		if _, stays := inSlot(change.To, was.Slot); stays {
			continue
		}
		if err := add(types.VirtualDeviceConfigSpecOperationRemove, was); err != nil {
			return nil, err
		}
	}
	for _, card := range change.To {
		was, there := inSlot(change.From, card.Slot)
		op := types.VirtualDeviceConfigSpecOperationEdit
		switch {
		case was == card && there:
			continue
		case !there:
			op = types.VirtualDeviceConfigSpecOperationAdd
		}
		if err := add(op, card); err != nil {
			return nil, err
		}
	}
	return specs, nil
}

// cardDevice is a card as vSphere has it.
func (c *Client) cardDevice(ctx context.Context, card Card) (types.BaseVirtualDevice, error) {
	backing, err := c.cardBacking(ctx, cmp.Or(card.Network, c.place.networkName))
	if err != nil {
		return nil, err
	}
	device, err := object.EthernetCardTypes().CreateEthernetCard("vmxnet3", backing)
	if err != nil {
		return nil, err
	}
	nic := device.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard()
	nic.Key = card.key()
	nic.Connectable = &types.VirtualDeviceConnectInfo{StartConnected: !card.Unplugged, Connected: !card.Unplugged, AllowGuestControl: true}
	nic.AddressType, nic.MacAddress = "", card.MAC
	if card.MAC != "" {
		nic.AddressType = string(types.VirtualEthernetCardMacTypeManual)
	}
	return device, nil
}

// SetNetwork tells the host's switch of a network what it is to be like, on a host with hostapi.ExtensionNetworks.
func (c *Client) SetNetwork(ctx context.Context, name string, settings hostapi.NetworkSettings) error {
	text, err := json.Marshal(settings)
	if err != nil {
		return err
	}
	u := c.soap.URL().ResolveReference(&url.URL{Path: hostapi.RouteNetworks}).JoinPath(url.PathEscape(name))
	u.User = nil
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, u.String(), bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := c.exchange(req, http.StatusOK, http.StatusNoContent)
	if err != nil {
		return fmt.Errorf("cannot set up network %s: %w", name, err)
	}
	return res.Body.Close()
}

// HostNetworks is what the host tells of its networks and their switches; nothing on a host without hostapi.ExtensionNetworks.
func (c *Client) HostNetworks(ctx context.Context) (all hostapi.Networks, err error) {
	if !c.Has(hostapi.ExtensionNetworks) {
		return all, nil
	}
	u := c.soap.URL().ResolveReference(&url.URL{Path: hostapi.RouteNetworks})
	u.User = nil
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return all, err
	}
	res, err := c.exchange(req, http.StatusOK)
	if err != nil {
		return all, fmt.Errorf("cannot learn of the host's networks: %w", err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(io.LimitReader(res.Body, hostapi.MaxAnswer)).Decode(&all); err != nil {
		return all, fmt.Errorf("cannot decode the host's networks: %w", err)
	}
	return all, nil
}
