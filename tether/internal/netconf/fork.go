package netconf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// cards are the network cards in the kernel's order.
func cards() ([]netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("cannot list network cards: %w", err)
	}
	return slices.DeleteFunc(links, func(l netlink.Link) bool { return l.Attrs().Flags&net.FlagLoopback != 0 }), nil
}

// GetReady does for a template what every child of it would have to do: the cards are up, under their names, with the addresses that
// the template knows its children to have, if any. None has been plugged in by then. It returns the cards, for SetMACs.
func GetReady(known []*tetherv1.Interface) (Cards, error) {
	found, err := cards()
	if err != nil {
		return nil, err
	}
	all := slices.Clone(known)
	for len(all) < len(found) {
		all = append(all, &tetherv1.Interface{})
	}
	return indices(found), Configure(all)
}

// Cards are network cards by the kernel's numbers, in the kernel's order. A fork does not change them, and listing them anew is more
// work than all that is done with them.
type Cards []int

// FindCards lists the network cards.
func FindCards() (Cards, error) {
	found, err := cards()
	return indices(found), err
}

func indices(links []netlink.Link) Cards {
	c := make(Cards, len(links))
	for i, l := range links {
		c[i] = l.Attrs().Index
	}
	return c
}

// Same reports whether two configurations want the same. A MAC address counts as one.
func Same(a, b []*tetherv1.Interface) bool {
	return slices.EqualFunc(a, b, func(a, b *tetherv1.Interface) bool {
		return a.Mac == b.Mac && a.Name == b.Name && a.Gateway == b.Gateway && a.Mtu == b.Mtu && slices.Equal(a.Addresses, b.Addresses)
	})
}

// SetMACs gives the cards their addresses, in order. Virtio's take them while they are up.
func (c Cards) SetMACs(macs []string) error {
	if len(macs) != len(c) {
		return fmt.Errorf("%d MAC addresses for %d network cards", len(macs), len(c))
	}
	for i, text := range macs {
		mac, err := net.ParseMAC(text)
		if err != nil {
			return fmt.Errorf("malformed MAC address: %w", err)
		}
		card := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: c[i]}}
		if err := netlink.LinkSetHardwareAddr(card, mac); err != nil {
			return fmt.Errorf("cannot set MAC address of network card %d: %w", i, err)
		}
	}
	return nil
}

// ForgetAddresses removes the addresses that are not wanted.
func ForgetAddresses(wanted []*tetherv1.Interface) error {
	keep := map[string]bool{}
	for _, w := range wanted {
		for _, text := range w.Addresses {
			if p, err := netip.ParsePrefix(text); err == nil {
				keep[p.String()] = true
			}
		}
	}
	found, err := cards()
	if err != nil {
		return err
	}
	for _, card := range found {
		addresses, err := netlink.AddrList(card, netlink.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("cannot list addresses: %w", err)
		}
		for _, a := range addresses {
			if keep[a.IPNet.String()] {
				continue
			}
			if err := netlink.AddrDel(card, &a); err != nil {
				return fmt.Errorf("cannot remove address %s: %w", a.IPNet, err)
			}
		}
	}
	return nil
}

// ForgetNeighbours empties the tables of neighbours and says how many there were.
func ForgetNeighbours() (n int, err error) {
	found, err := cards()
	if err != nil {
		return 0, err
	}
	for _, card := range found {
		neighbours, err := netlink.NeighList(card.Attrs().Index, netlink.FAMILY_ALL)
		if err != nil {
			return n, fmt.Errorf("cannot list neighbours: %w", err)
		}
		for _, neighbour := range neighbours {
			if neighbour.State&unix.NUD_NOARP != 0 {
				continue // multicast and the like: no one's
			}
			if err := netlink.NeighDel(&neighbour); err != nil && !errors.Is(err, unix.ENOENT) {
				return n, fmt.Errorf("cannot forget neighbour %s: %w", neighbour.IP, err)
			}
			n++
		}
	}
	return n, nil
}

// tcpListen is the state of a socket that listens (include/net/tcp_states.h): it has no peer to mind a fork.
const tcpListen = 10

// ResetConnections ends the TCP connections that lead out of the machine and says how many there were: they are the source's,
// whose peer knows of one end only. Their owners see a reset. The error wraps unix.EOPNOTSUPP on a kernel without
// CONFIG_INET_DIAG_DESTROY.
func ResetConnections() (n int, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := netlink.SocketDiagTCP(family)
		if errors.Is(err, unix.ENOENT) {
			continue // a kernel without the family
		}
		if err != nil {
			return n, fmt.Errorf("cannot list connections: %w", err)
		}
		for _, s := range sockets {
			if s.State == tcpListen || s.ID.Destination.IsLoopback() || s.ID.Source.IsLoopback() {
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

// carrierPoll is the pause between two checks of AwaitCarrier. Mostly the first check finds the link up.
const carrierPoll = time.Millisecond

// AwaitCarrier waits until a card that is up has its link, at most until ctx ends.
func AwaitCarrier(ctx context.Context, card string) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	request, err := unix.NewIfreq(card)
	if err != nil {
		return err
	}
	for {
		if err := unix.IoctlIfreq(socket, unix.SIOCGIFFLAGS, request); err != nil {
			return fmt.Errorf("cannot see the link of %s: %w", card, err)
		}
		if request.Uint16()&unix.IFF_RUNNING != 0 {
			return nil
		}
		select {
		case <-time.After(carrierPoll):
		case <-ctx.Done():
			return fmt.Errorf("%s has no link: %w", card, context.Cause(ctx))
		}
	}
}
