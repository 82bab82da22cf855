package network

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/moby/moby/api/types/network"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// Drivers of networks, in Docker's words.
const (
	DriverBridge = "bridge"
	DriverNull   = "null" // of the network "none", which connects nothing
)

// ScopeLocal is the scope of every network: it is of one host, or of one vCenter.
const ScopeLocal = "local"

// portGroupPrefix begins vSphere's name of a network that was made here.
const portGroupPrefix = "cvm-"

// Network is a network as it was made. It must not be changed.
type Network struct {
	ID         string            `json:"id"` // 64 hexadecimal digits
	Name       string            `json:"name"`
	PortGroup  string            `json:"portGroup"` // vSphere's name; empty: it connects nothing
	Driver     string            `json:"driver"`
	Created    time.Time         `json:"created"`
	Internal   bool              `json:"internal,omitempty"`
	Attachable bool              `json:"attachable,omitempty"`
	MTU        int               `json:"mtu,omitempty"` // bytes; 0: 1500
	IPv4       Pool              `json:"ipv4,omitzero"`
	IPv6       Pool              `json:"ipv6,omitzero"`
	IPAM       map[string]string `json:"ipam,omitempty"` // options of Docker's IPAM, shown again
	Options    map[string]string `json:"options,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	// Phase is empty, except while it is being made or removed, when it is no network to users.
	Phase phase `json:"phase,omitempty"`
}

// phase is how far a network that is in the index is made.
type phase string

const (
	making   phase = "making"
	removing phase = "removing"
)

// Pool is where a network's addresses of one family are from; the zero value: it has none of the family.
type Pool struct {
	Subnet  netip.Prefix          `json:"subnet"`
	Range   netip.Prefix          `json:"range,omitzero"` // where addresses are from that nobody has wished; zero: the subnet
	Gateway netip.Addr            `json:"gateway"`        // of the network's switch
	Aux     map[string]netip.Addr `json:"aux,omitempty"`  // addresses that are given to nobody, by names that mean nothing
}

// IsZero reports whether there are no addresses of the family.
func (p Pool) IsZero() bool { return !p.Subnet.IsValid() }

// gateway is the switch's address with the length of the network's prefix.
func (p Pool) gateway() netip.Prefix { return netip.PrefixFrom(p.Gateway, p.Subnet.Bits()) }

// Predefined reports whether nobody makes or removes the network.
func (n *Network) Predefined() bool { return Predefined(n.Name) }

// Predefined reports whether a name is that of a network that nobody makes or removes.
func Predefined(name string) bool {
	return name == network.NetworkBridge || name == network.NetworkNone || name == network.NetworkHost || name == network.NetworkDefault
}

// fixedID is the ID of a network that exists by itself: derived from its name, so that it is always the same.
func fixedID(name string) string {
	sum := sha256.Sum256([]byte("containervm network " + name))
	return hex.EncodeToString(sum[:])
}

// none is the network that connects nothing.
func none() Network {
	return Network{ID: fixedID(network.NetworkNone), Name: network.NetworkNone, Driver: DriverNull}
}

// Settings is what the host's switch is told.
func (n *Network) Settings() hostapi.NetworkSettings {
	s := hostapi.NetworkSettings{Internal: n.Internal, MTU: n.MTU}
	for _, p := range []Pool{n.IPv4, n.IPv6} {
		if p.Gateway.IsValid() {
			s.Gateways = append(s.Gateways, p.gateway())
		}
	}
	return s
}

// Docker is the network as Docker's API shows it.
func (n *Network) Docker() network.Network {
	out := network.Network{
		Name: n.Name, ID: n.ID, Created: n.Created, Scope: ScopeLocal, Driver: n.Driver,
		EnableIPv4: !n.IPv4.IsZero() || n.Driver == DriverNull, EnableIPv6: !n.IPv6.IsZero(), Internal: n.Internal, Attachable: n.Attachable,
		IPAM:    network.IPAM{Driver: "default", Options: maps.Clone(n.IPAM), Config: []network.IPAMConfig{}},
		Options: map[string]string{}, Labels: map[string]string{},
	}
	if out.IPAM.Options == nil && !n.Predefined() {
		out.IPAM.Options = map[string]string{} // what Docker's command line asks for, and so what its users see
	}
	maps.Copy(out.Options, n.Options)
	maps.Copy(out.Labels, n.Labels)
	for _, p := range []Pool{n.IPv4, n.IPv6} {
		if !p.IsZero() {
			out.IPAM.Config = append(out.IPAM.Config, network.IPAMConfig{
				Subnet: p.Subnet, IPRange: p.Range, Gateway: p.Gateway, AuxAddress: maps.Clone(p.Aux),
			})
		}
	}
	return out
}

// subnets are those of networks.
func subnets(all []Network) []netip.Prefix {
	var out []netip.Prefix
	for _, n := range all {
		for _, p := range []Pool{n.IPv4, n.IPv6} {
			if !p.IsZero() {
				out = append(out, p.Subnet)
			}
		}
	}
	return slices.Clip(out)
}

// Docker is the user's endpoint as inspect of its network shows it.
func (u *User) Docker() network.EndpointResource {
	r := network.EndpointResource{Name: u.Name, EndpointID: u.Endpoint.ID, IPv4Address: u.Endpoint.IPv4, IPv6Address: u.Endpoint.IPv6}
	if mac, err := net.ParseMAC(u.Endpoint.MAC); err == nil {
		r.MacAddress = network.HardwareAddr(mac)
	}
	return r
}

// Status tells how many addresses of a network's subnets are in use, as Docker counts: those that nobody can have are.
func (s *Service) Status(n Network) network.SubnetStatuses {
	s.uses.mu.Lock()
	addresses, _ := s.taken(n.ID)
	s.uses.mu.Unlock()
	out := network.SubnetStatuses{}
	for _, p := range []Pool{n.IPv4, n.IPv6} {
		if !p.IsZero() {
			out[p.Subnet] = p.status(addresses)
		}
	}
	return out
}
