package netconf

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// SetMACs gives the cards their addresses, by slot. A card without one keeps its own, and so does one that is hidden.
func (c *Cards) SetMACs(macs []string) error {
	for slot, text := range macs {
		if text == "" {
			continue
		}
		mac, err := net.ParseMAC(text)
		if err != nil {
			return fmt.Errorf("malformed MAC address: %w", err)
		}
		if slot >= len(c.cards) {
			return fmt.Errorf("%d MAC addresses for %d network cards", len(macs), len(c.cards))
		}
		k := &c.cards[slot]
		if k.index == 0 || k.mac == mac.String() {
			continue
		}
		if err := c.do(step{do: setMAC, link: k.index, mac: mac}); err != nil {
			return fmt.Errorf("cannot set MAC address of network card %d: %w", slot, err)
		}
		k.mac = mac.String()
	}
	return nil
}

// MACs are those that the interfaces ask for, by slot, for SetMACs. ok is false unless each asks for one.
func (c *Cards) MACs(wanted []*tetherv1.Interface) (macs []string, ok bool) {
	decoded, err := decode(wanted)
	if err != nil {
		return nil, false
	}
	slots, err := choose(decoded, c.cards)
	if err != nil {
		return nil, false
	}
	macs = make([]string, len(c.cards))
	for n, w := range decoded {
		if w.mac == nil {
			return nil, false
		}
		macs[slots[n]] = w.mac.String()
	}
	return macs, true
}

// ForgetAddresses removes the addresses of the cards that are not wanted, also those that a container has added itself.
func (c *Cards) ForgetAddresses(wanted []*tetherv1.Interface) error {
	if err := c.look(); err != nil {
		return err
	}
	keep := map[netip.Prefix]bool{}
	for _, w := range wanted {
		for _, text := range w.Addresses {
			if p, err := netip.ParsePrefix(text); err == nil {
				keep[p] = true
			}
		}
	}
	for _, k := range c.cards {
		for _, a := range k.addresses {
			if keep[a] {
				continue
			}
			if err := c.do(step{do: forget, link: k.index, address: a}); err != nil {
				return fmt.Errorf("cannot remove address %s: %w", a, err)
			}
		}
	}
	c.whole = false
	return c.look() // an address may have taken others, and routes, along
}

// ForgetNeighbours empties the tables of neighbours and says how many there were.
func (c *Cards) ForgetNeighbours() (n int, err error) {
	for _, k := range c.cards {
		if k.index == 0 {
			continue
		}
		neighbours, err := c.kernel.NeighList(k.index, netlink.FAMILY_ALL)
		if err != nil {
			return n, fmt.Errorf("cannot list neighbours: %w", err)
		}
		for _, neighbour := range neighbours {
			if neighbour.State&unix.NUD_NOARP != 0 {
				continue // multicast and the like: no one's
			}
			if err := c.kernel.NeighDel(&neighbour); err != nil && !errors.Is(err, unix.ENOENT) {
				return n, fmt.Errorf("cannot forget neighbour %s: %w", neighbour.IP, err)
			}
			n++
		}
	}
	return n, nil
}

// Describe says of each interface what it has, for people.
func Describe(interfaces []*tetherv1.Interface, of func(*tetherv1.Interface) string) string {
	var all []string
	for n, i := range interfaces {
		name := i.Name
		if name == "" {
			name = fmt.Sprintf("eth%d", n)
		}
		all = append(all, name+" "+of(i))
	}
	return strings.Join(all, ", ")
}

// tcpListen is the state of a socket that listens (include/net/tcp_states.h): it has no peer to mind a fork.
const tcpListen = 10

// ResetConnections ends the TCP connections that lead out of the machine from an address that is gone, and says how many there were: a
// fork's are its source's, whose peer knows of one end only. Their owners see a reset. The error wraps unix.EOPNOTSUPP on a kernel without
// CONFIG_INET_DIAG_DESTROY.
func ResetConnections(gone func(net.IP) bool) (n int, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := netlink.SocketDiagTCP(family)
		if errors.Is(err, unix.ENOENT) {
			continue // a kernel without the family
		}
		if err != nil {
			return n, fmt.Errorf("cannot list connections: %w", err)
		}
		for _, s := range sockets {
			if s.State == tcpListen || s.ID.Destination.IsLoopback() || s.ID.Source.IsLoopback() || !gone(s.ID.Source) {
				continue
			}
			local := &net.TCPAddr{IP: s.ID.Source, Port: int(s.ID.SourcePort)}
			remote := &net.TCPAddr{IP: s.ID.Destination, Port: int(s.ID.DestinationPort)}
			if err := netlink.SocketDestroy(local, remote); err != nil && !errors.Is(err, unix.ENOENT) {
				return n, fmt.Errorf("cannot reset the connection with %s: %w", remote, err)
			}
			n++
		}
	}
	return n, nil
}
