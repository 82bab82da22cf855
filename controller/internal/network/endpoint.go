package network

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/network"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Who is a container as its networks know it.
type Who struct {
	ID       string // 64 hexadecimal digits
	Name     string // without a slash
	Hostname string
}

// shortID is how many digits of an ID are a name too.
const shortID = 12

// Names are the names by which others find a container in a network, in Docker's order: the first answers for its address.
func Names(who Who, e *record.Endpoint) []string {
	var names []string
	for _, name := range slices.Concat([]string{who.Name}, e.Wish.Aliases, []string{who.ID[:min(shortID, len(who.ID))], who.Hostname}) {
		known := slices.ContainsFunc(names, func(other string) bool { return strings.EqualFold(other, name) })
		if name != "" && !known {
			names = append(names, name)
		}
	}
	return names
}

// HostEndpoints is what the host is told of a container's endpoints: the endpoints of hostapi.Net.
func HostEndpoints(who Who, endpoints []record.Endpoint) []hostapi.Endpoint {
	var out []hostapi.Endpoint
	for _, e := range plugged(endpoints) {
		to := hostapi.Endpoint{Network: e.PortGroup, Names: Names(who, &e)}
		for _, p := range []netip.Prefix{e.IPv4, e.IPv6} {
			if p.IsValid() {
				to.Addresses = append(to.Addresses, p.Addr())
			}
		}
		out = append(out, to)
	}
	return out
}

// plugged are the endpoints in networks that are there.
func plugged(endpoints []record.Endpoint) []record.Endpoint {
	return slices.DeleteFunc(slices.Clone(endpoints), func(e record.Endpoint) bool { return e.Unplugged })
}

// Cards are the network cards of a machine with endpoints.
func Cards(endpoints []record.Endpoint) []vsphere.Card {
	var cards []vsphere.Card
	for _, e := range plugged(endpoints) {
		cards = append(cards, vsphere.Card{Slot: e.Slot, Network: e.PortGroup, MAC: e.MAC})
	}
	return cards
}

// byPriority are the endpoints in the order in which they lead out: Docker's gw-priority, and then by name.
func byPriority(endpoints []record.Endpoint) []record.Endpoint {
	return slices.SortedStableFunc(slices.Values(plugged(endpoints)), func(a, b record.Endpoint) int {
		return cmp.Or(cmp.Compare(b.Wish.GwPriority, a.Wish.GwPriority), cmp.Compare(a.Network, b.Network))
	})
}

// leadsOut is the endpoint through which a family leads out of the container; nil: none does.
func leadsOut(endpoints []record.Endpoint, gateway func(*record.Endpoint) netip.Addr) *record.Endpoint {
	for _, e := range byPriority(endpoints) {
		if !e.Internal && gateway(&e).IsValid() {
			return &e
		}
	}
	return nil
}

func gateway4(e *record.Endpoint) netip.Addr { return e.Gateway4 }
func gateway6(e *record.Endpoint) netip.Addr { return e.Gateway6 }

// Interfaces is what a tether is told of a machine's endpoints, by slot.
func Interfaces(endpoints []record.Endpoint) []*tetherv1.Interface {
	out4, out6 := leadsOut(endpoints, gateway4), leadsOut(endpoints, gateway6)
	var all []*tetherv1.Interface
	for _, e := range slices.SortedFunc(slices.Values(plugged(endpoints)), func(a, b record.Endpoint) int { return cmp.Compare(a.Slot, b.Slot) }) {
		i := &tetherv1.Interface{Mac: e.MAC, Slot: uint32(e.Slot) + 1, Mtu: uint32(e.MTU)}
		for _, p := range []netip.Prefix{e.IPv4, e.IPv6} {
			if p.IsValid() {
				i.Addresses = append(i.Addresses, p.String())
			}
		}
		if out4 != nil && out4.Slot == e.Slot {
			i.Gateway = e.Gateway4.String()
		}
		if out6 != nil && out6.Slot == e.Slot {
			i.Gateway6 = e.Gateway6.String()
		}
		all = append(all, i)
	}
	return all
}

// maxNameservers is how many name servers a C library asks at most (resolv.conf(5), MAXNS).
const maxNameservers = 3

// Nameservers are the switches that a container asks for names: first those of networks that lead out. There are none on a host
// whose switches answer nothing.
func (s *Service) Nameservers(endpoints []record.Endpoint) []netip.Addr {
	if !s.host.Has(hostapi.ExtensionNetworks) {
		return s.opt.Resolvers
	}
	var all, internal []netip.Addr
	for _, e := range byPriority(endpoints) {
		gateway := cmp.Or(e.Gateway4, e.Gateway6)
		switch {
		case !gateway.IsValid():
		case e.Internal:
			internal = append(internal, gateway)
		default:
			all = append(all, gateway)
		}
	}
	all = append(all, internal...)
	return all[:min(len(all), maxNameservers)]
}

// Docker is an endpoint of a container as Docker's API shows it.
func Docker(who Who, e *record.Endpoint) *network.EndpointSettings {
	w := &e.Wish
	s := &network.EndpointSettings{
		Links: slices.Clone(w.Links), Aliases: slices.Clone(w.Aliases), DriverOpts: w.DriverOpts, GwPriority: w.GwPriority,
		NetworkID: e.NetworkID, EndpointID: e.ID, DNSNames: Names(who, e),
	}
	if w.IPv4.IsValid() || w.IPv6.IsValid() {
		s.IPAMConfig = &network.EndpointIPAMConfig{IPv4Address: w.IPv4, IPv6Address: w.IPv6}
	}
	if mac, err := net.ParseMAC(e.MAC); err == nil {
		s.MacAddress = network.HardwareAddr(mac)
	}
	if e.IPv4.IsValid() {
		s.IPAddress, s.IPPrefixLen = e.IPv4.Addr(), e.IPv4.Bits()
	}
	if e.IPv6.IsValid() {
		s.GlobalIPv6Address, s.GlobalIPv6PrefixLen = e.IPv6.Addr(), e.IPv6.Bits()
	}
	if !e.Internal {
		s.Gateway, s.IPv6Gateway = e.Gateway4, e.Gateway6
	}
	return s
}
