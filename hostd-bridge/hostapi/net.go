package hostapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// DefaultNetwork is the name of the network that every host has, and that nobody can remove: vSphere's usual name of the first one.
const DefaultNetwork = "VM Network"

// Limits of a VM's devices.
const (
	// MaxCards is how many network cards a VM has at most. A microvm has eight places for devices: the root disk, vsock, the source of
	// random numbers, the controller of the data disks, and these.
	MaxCards = 4
	// FirstCardKey is the device key of the card in slot 0, and the others follow: vSphere's own keys of network cards.
	FirstCardKey = 4000
	// MaxDataDisks is how many disks a VM has at most beside its root disk: the units 1 to 15 of its SCSI controller, but for 7, which vSphere
	// keeps for the controller itself.
	MaxDataDisks = 14
	// FirstDiskKey is the device key of the disk with unit 0, which is the root disk; others have FirstDiskKey + unit.
	FirstDiskKey = 2000
)

// DiskSerial is the SCSI serial number by which a guest knows the data disk with a unit number.
func DiskSerial(unit int) string { return fmt.Sprintf("vol%d", unit) }

// Net says what a VM is in its networks beside having a card there: the value of KeyNet. It is in force while the VM is on.
type Net struct {
	Endpoints []Endpoint    `json:"endpoints,omitempty"` // one for each network at most
	Publish   []Publication `json:"publish,omitempty"`
	// HostGateway lets the VM reach, at its gateway's address, those ports of the host's loopback that the host allows
	// (Networks.HostGateway).
	HostGateway bool `json:"hostGateway,omitempty"`
}

// Endpoint is what a VM is in a network that one of its cards is in.
type Endpoint struct {
	Network   string       `json:"network"`             // name
	Addresses []netip.Addr `json:"addresses,omitempty"` // of the network's ranges
	Names     []string     `json:"names,omitempty"`     // by which others of the network find it; case does not matter
}

// Publication is a port of the host that leads to a port of a VM.
type Publication struct {
	Protocol string     `json:"protocol"` // TCP or UDP
	HostIP   netip.Addr `json:"hostIP"`   // 0.0.0.0 or :: is every address of the family
	HostPort uint16     `json:"hostPort"` // 0: the host chooses
	// HostPortEnd, if it is not 0, is the last of a range that begins with HostPort: the host chooses a free one of it.
	HostPortEnd uint16 `json:"hostPortEnd,omitempty"`
	Port        uint16 `json:"port"`              // of the VM, 1 to 65535
	Network     string `json:"network,omitempty"` // name of the network by which the VM is reached; empty: its first endpoint's
}

// Values of Publication.Protocol.
const (
	TCP = "tcp"
	UDP = "udp"
)

// Limits of Net. A name is one of DNS: RFC 1035, 2.3.4.
const (
	maxNames       = 64
	maxAddresses   = 8
	MaxPublication = 4096 // of a VM; a range of ports is one publication for each
	maxName        = 253
	// MaxNetworkSettings bounds a NetworkSettings as JSON, in bytes.
	MaxNetworkSettings = 64 << 10
)

// DecodeNet reads the value of KeyNet. What it does not know is an error: nothing that was asked for is left undone in silence.
func DecodeNet(text string) (Net, error) {
	var n Net
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.DisallowUnknownFields()
	err := d.Decode(&n)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the document")
		}
	}
	if err == nil {
		err = n.check()
	}
	if err != nil {
		return Net{}, fmt.Errorf("cannot read %s: %w", KeyNet, err)
	}
	return n, nil
}

// Encode returns what DecodeNet reads.
func (n Net) Encode() (string, error) {
	if err := n.check(); err != nil {
		return "", fmt.Errorf("cannot write %s: %w", KeyNet, err)
	}
	text, err := json.Marshal(n)
	return string(text), err
}

func (n Net) check() error {
	networks := map[string]bool{}
	for _, e := range n.Endpoints {
		if networks[e.Network] {
			return fmt.Errorf("network %q is named twice", e.Network)
		}
		networks[e.Network] = true
		if err := e.check(); err != nil {
			return fmt.Errorf("network %q: %w", e.Network, err)
		}
	}
	if len(n.Endpoints) > MaxCards {
		return fmt.Errorf("%d networks, at most %d are possible", len(n.Endpoints), MaxCards)
	}
	if len(n.Publish) > MaxPublication {
		return fmt.Errorf("%d publications, at most %d are possible", len(n.Publish), MaxPublication)
	}
	for _, p := range n.Publish {
		if err := p.check(); err != nil {
			return err
		}
		if p.Network != "" && !networks[p.Network] {
			return fmt.Errorf("a publication names network %q, in which the VM is not", p.Network)
		}
	}
	if len(n.Publish) > 0 && len(n.Endpoints) == 0 {
		return errors.New("a VM without a network publishes ports")
	}
	return nil
}

func (e Endpoint) check() error {
	switch {
	case e.Network == "":
		return errors.New("no name")
	case len(e.Addresses) > maxAddresses || len(e.Names) > maxNames:
		return fmt.Errorf("more than %d addresses or %d names", maxAddresses, maxNames)
	}
	for _, a := range e.Addresses {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
			return fmt.Errorf("%v is no address of a VM", a)
		}
	}
	for _, name := range e.Names {
		if name == "" || len(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return fmt.Errorf("%.64q is no name", name)
		}
	}
	return nil
}

func (p Publication) check() error {
	switch {
	case p.Protocol != TCP && p.Protocol != UDP:
		return fmt.Errorf("protocol %q is neither %s nor %s", p.Protocol, TCP, UDP)
	case p.Port == 0:
		return errors.New("a publication names no port of the VM")
	case !p.HostIP.IsValid() || p.HostIP.Zone() != "":
		return errors.New("a publication names no address of the host")
	case p.HostPortEnd != 0 && (p.HostPort == 0 || p.HostPortEnd < p.HostPort):
		return fmt.Errorf("ports %d to %d are no range", p.HostPort, p.HostPortEnd)
	}
	return nil
}

// DecodePublished reads the value of KeyPublished; an absent one is none.
func DecodePublished(text string) ([]Publication, error) {
	if text == "" {
		return nil, nil
	}
	var all []Publication
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", KeyPublished, err)
	}
	return all, nil
}

// EncodePublished returns what DecodePublished reads; of none it is empty, which removes the key.
func EncodePublished(all []Publication) (string, error) {
	if len(all) == 0 {
		return "", nil
	}
	text, err := json.Marshal(all)
	if err != nil {
		return "", fmt.Errorf("cannot encode %s: %w", KeyPublished, err)
	}
	return string(text), nil
}

// NetworkSettings says what the switch of a network does beside passing frames: the body of PUT RouteNetworks/<name>.
type NetworkSettings struct {
	// Gateways are the switch's own addresses with the length of their network's prefix, one of each family at most; none: it
	// has no address, resolves no names, and nothing leads out.
	Gateways []netip.Prefix `json:"gateways,omitempty"`
	Internal bool           `json:"internal,omitempty"` // nothing leads out, and no port in; names of the network are resolved
	MTU      int            `json:"mtu,omitempty"`      // bytes, 68 (RFC 791; with IPv6 1280, RFC 8200) to 65535; 0: 1500
}

// Check says what is wrong with settings.
func (s NetworkSettings) Check() error {
	families := map[bool]bool{}
	least := 68
	for _, g := range s.Gateways {
		a := g.Addr()
		if !g.IsValid() || a.Zone() != "" || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.IsLinkLocalUnicast() {
			return fmt.Errorf("%v is no gateway", g)
		}
		if families[a.Is4()] {
			return errors.New("a network has one gateway of each family")
		}
		families[a.Is4()] = true
		if a.Is6() {
			least = 1280
		}
	}
	if s.MTU != 0 && (s.MTU < least || s.MTU > 65535) {
		return fmt.Errorf("MTU %d is not %d to 65535", s.MTU, least)
	}
	return nil
}

// Networks is the answer to RouteNetworks.
type Networks struct {
	Networks []NetworkState `json:"networks"`
	// HostGateway is which ports of its loopback the host lets VMs reach that ask for it (Net.HostGateway); none: it lets none.
	HostGateway []PortRange `json:"hostGateway,omitempty"`
}

// NetworkState is a network and how it is.
type NetworkState struct {
	Name     string          `json:"name"`
	Network  string          `json:"network"` // moref value
	Settings NetworkSettings `json:"settings"`
	Switch   int             `json:"switch,omitempty"` // process ID of the switch; 0: no VM that is on has a card there
	Cards    int             `json:"cards"`            // cards of VMs that are on
}

// PortRange is ports of a protocol, first and last included.
type PortRange struct {
	Protocol string `json:"protocol"`
	First    uint16 `json:"first"`
	Last     uint16 `json:"last"`
}
