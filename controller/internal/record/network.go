package record

import (
	"encoding/json"
	"fmt"
	"net/netip"
)

// Endpoint is what a container, or a machine that is to become one, is in a network: an element of the value of KeyNetworks. Its
// addresses are its own for the container's life, also while it is off.
type Endpoint struct {
	ID        string `json:"id"`        // 64 hexadecimal digits
	NetworkID string `json:"networkID"` // of the network it was made in, which may be gone when the container is off
	Network   string `json:"network"`   // the network's name
	PortGroup string `json:"portGroup"` // vSphere's name of it
	Slot      int    `json:"slot"`      // of the network card, 0 to hostapi.MaxCards-1
	MAC       string `json:"mac"`       // of the card: "02:42:ac:11:00:02"
	// IPv4 and IPv6 are addresses with the length of their network's prefix; zero: it has none of the family.
	IPv4 netip.Prefix `json:"ipv4,omitzero"`
	IPv6 netip.Prefix `json:"ipv6,omitzero"`
	// Gateway4 and Gateway6 are the switch's addresses: where names are asked for and, unless Internal, what leads out.
	Gateway4 netip.Addr `json:"gateway4,omitzero"`
	Gateway6 netip.Addr `json:"gateway6,omitzero"`
	Internal bool       `json:"internal,omitempty"` // nothing leads out
	MTU      int        `json:"mtu,omitempty"`      // bytes; 0: 1500
	// Unplugged: the network was removed while the container did not run, and the card with it.
	Unplugged bool `json:"unplugged,omitempty"`
	Wish      Wish `json:"wish,omitzero"`
}

// Wish is what a client asked for when it connected a container to a network, as inspect shows it again.
type Wish struct {
	IPv4       netip.Addr        `json:"ipv4,omitzero"`
	IPv6       netip.Addr        `json:"ipv6,omitzero"`
	MAC        string            `json:"mac,omitempty"`
	Aliases    []string          `json:"aliases,omitempty"`
	Links      []string          `json:"links,omitempty"`
	DriverOpts map[string]string `json:"driverOpts,omitempty"`
	GwPriority int               `json:"gwPriority,omitempty"`
}

// DecodeNetworks reads the value of KeyNetworks; an absent one is none.
func DecodeNetworks(text string) ([]Endpoint, error) {
	if text == "" {
		return nil, nil
	}
	var all []Endpoint
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return nil, fmt.Errorf("cannot decode %s: %w", KeyNetworks, err)
	}
	return all, nil
}

// EncodeNetworks returns what DecodeNetworks reads; of none it is empty, which removes the key.
func EncodeNetworks(all []Endpoint) (string, error) {
	if len(all) == 0 {
		return "", nil
	}
	text, err := json.Marshal(all)
	if err != nil {
		return "", fmt.Errorf("cannot encode %s: %w", KeyNetworks, err)
	}
	return string(text), nil
}
