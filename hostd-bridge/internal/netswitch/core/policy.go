package core

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// outside is how the switch reaches what is not in its network.
type outside struct {
	// dial connects to an address that policy allows; network is "tcp" or "udp".
	dial func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error)
	// unicast reports whether packets to an address leave this host for one other: false for the host's own addresses, and those of
	// many.
	unicast func(netip.Addr) bool
	// resolvConf is the file that names the host's resolvers.
	resolvConf string
}

// host is the outside as this host sees it.
func host() outside {
	return outside{
		dial: func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, to.String())
		},
		unicast:    routedAway,
		resolvConf: "/etc/resolv.conf",
	}
}

// routedAway asks the kernel what it does with packets to an address: whatever makes it the host's own, be it an interface's address,
// one of a tunnel that came a moment ago, or a route of type local, the kernel knows.
func routedAway(a netip.Addr) bool {
	routes, err := netlink.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 {
		return false
	}
	for _, r := range routes {
		if r.Type != unix.RTN_UNICAST {
			return false
		}
	}
	return true
}

// never are addresses that no guest reaches through the gateway, wherever the host's routes lead.
func never() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"),         // "this host", RFC 1122
		netip.MustParsePrefix("127.0.0.0/8"),       // loopback
		netip.MustParsePrefix("169.254.0.0/16"),    // link-local, and clouds' metadata
		netip.MustParsePrefix("224.0.0.0/4"),       // multicast
		netip.MustParsePrefix("240.0.0.0/4"),       // class E, and 255.255.255.255
		netip.MustParsePrefix("::/128"),            // unspecified
		netip.MustParsePrefix("::1/128"),           // loopback
		netip.MustParsePrefix("fe80::/10"),         // link-local
		netip.MustParsePrefix("fec0::/10"),         // site-local, which RFC 3879 ended
		netip.MustParsePrefix("ff00::/8"),          // multicast
		netip.MustParsePrefix("fd00:ec2::254/128"), // a cloud's metadata
	}
}

// embedded returns the IPv4 address inside of an IPv6 address of a form that stands for it, or the address itself.
func embedded(a netip.Addr) netip.Addr {
	if a = a.Unmap(); a.Is4() {
		return a
	}
	b := a.As16()
	in := func(prefix string) bool { return netip.MustParsePrefix(prefix).Contains(a) }
	switch {
	case in("::/128"), in("::1/128"):
		return a
	case in("::/96"), in("64:ff9b::/96"), in("::ffff:0:0:0/96"): // compatible (RFC 4291), NAT64 (RFC 6052), translated (RFC 7915)
		return netip.AddrFrom4([4]byte(b[12:]))
	case in("2002::/16"): // 6to4, RFC 3056
		return netip.AddrFrom4([4]byte(b[2:]))
	case in("2001::/32"): // Teredo, RFC 4380: inverted
		return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, ^binary.BigEndian.Uint32(b[12:]))))
	}
	return a
}

// outward decides where a session of an endpoint to an address leads: to what address of the outside, or nowhere.
func (t *table) outward(o outside, e *card, network string, to netip.AddrPort) (netip.AddrPort, bool) {
	if t.isGateway(to.Addr()) {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), to.Port()), e.HostGateway && t.opened(network, to.Port())
	}
	if t.config.Internal || t.forbidden(to.Addr()) {
		return netip.AddrPort{}, false
	}
	return to, o.unicast(to.Addr())
}

// opened reports whether a port of the host's loopback is open to endpoints that asked for it.
func (t *table) opened(network string, port uint16) bool {
	return slices.ContainsFunc(t.config.HostGateway, func(r hostapi.PortRange) bool {
		return r.Protocol == network && r.First <= port && port <= r.Last
	})
}

// forbidden reports whether an address is one that no packet may go to, in whatever form it is written. IPv4-mapped forms are not
// addresses that go over a wire (RFC 4291, 2.5.5.2).
func (t *table) forbidden(a netip.Addr) bool {
	if a.Is4In6() {
		return true
	}
	for _, form := range []netip.Addr{a, embedded(a)} {
		holds := func(p netip.Prefix) bool { return p.Contains(form) }
		if slices.ContainsFunc(t.never, holds) || t.inside(form) {
			return true
		}
	}
	return false
}

// inside reports whether an address is of this network or of another one of the host.
func (t *table) inside(a netip.Addr) bool {
	holds := func(p netip.Prefix) bool { return p.Masked().Contains(a) }
	return slices.ContainsFunc(t.config.Denied, holds) || slices.ContainsFunc(t.config.Gateways, holds)
}

func (t *table) isGateway(a netip.Addr) bool {
	return slices.ContainsFunc(t.config.Gateways, func(p netip.Prefix) bool { return p.Addr() == a })
}

// gateways reports whether there is a gateway of a family.
func (t *table) gateways(v4 bool) bool {
	return slices.ContainsFunc(t.config.Gateways, func(p netip.Prefix) bool { return p.Addr().Is4() == v4 })
}

// anothers reports whether an address was given to another card, or is the gateway's.
func (t *table) anothers(e *card, a netip.Addr) bool {
	owner := t.byAddr[a]
	return t.isGateway(a) || owner != nil && owner != e
}
