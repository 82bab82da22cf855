package netconf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Cards are the machine's network cards. What is known of them goes along with a fork, so that nothing has to be asked for anew; others that
// the container makes itself, as bridges and tunnels, are none. It has one user at a time.
//
// A card's slot is its number in the kernel's order at the boot. That is the host's order: Linux finds virtio-mmio devices in the order of
// their addresses, which is how QEMU's microvm names them on the command line, and PCI devices in the order of their slots; QEMU gives
// out both in the order of its arguments. Seen with QEMU 7.2, microvm and q35: the n-th -device virtio-net is eth<n>, its index 2+n.
type Cards struct {
	state
	kernel *netlink.Handle                  // a socket that is kept: a fork need not make one
	wanted []*tetherv1.Interface            // as which the cards were configured last
	whole  bool                             // they are so
	hiding []<-chan error                   // of cards that are about to be hidden: when each is
	device func(name string) (string, bool) // the device of an interface; false: it is no card
}

// Find lists the cards and brings loopback up.
func Find() (*Cards, error) { return find(sysDevice) }

// netDir is where Linux has a directory for each interface.
const netDir = "/sys/class/net/"

// sysDevice is the name of an interface's device on its bus, as virtio2. Interfaces without one are no cards.
func sysDevice(name string) (string, bool) {
	target, err := os.Readlink(netDir + name + "/device")
	return filepath.Base(target), err == nil
}

func find(device func(name string) (string, bool)) (*Cards, error) {
	kernel, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("cannot ask for network cards: %w", err)
	}
	c := &Cards{kernel: kernel, device: device}
	if err := c.list(); err != nil {
		kernel.Close()
		return nil, err
	}
	return c, nil
}

// list finds cards that are not known yet.
func (c *Cards) list() error {
	links, err := c.kernel.LinkList()
	if err != nil {
		return fmt.Errorf("cannot list network cards: %w", err)
	}
	slices.SortFunc(links, func(a, b netlink.Link) int { return a.Attrs().Index - b.Attrs().Index })
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 {
			if a.Flags&net.FlagUp == 0 {
				if err := c.kernel.LinkSetUp(l); err != nil {
					return fmt.Errorf("cannot bring up loopback: %w", err)
				}
			}
			continue
		}
		device, ok := c.device(a.Name)
		if !ok || slices.ContainsFunc(c.cards, func(known card) bool { return known.index == a.Index }) {
			continue
		}
		c.cards = append(c.cards, card{
			slot: len(c.cards), device: device, mac: a.HardwareAddr.String(),
			index: a.Index, name: a.Name, mtu: a.MTU, up: a.Flags&net.FlagUp != 0,
		})
	}
	return nil
}

// Count is how many cards the machine has, hidden ones included.
func (c *Cards) Count() int { return len(c.cards) }

// Same reports whether that is what the cards are configured as. MAC addresses count.
func (c *Cards) Same(wanted []*tetherv1.Interface) bool {
	return c.whole && slices.EqualFunc(c.wanted, wanted, func(a, b *tetherv1.Interface) bool {
		return strings.EqualFold(a.Mac, b.Mac) && a.Name == b.Name && a.Gateway == b.Gateway && a.Mtu == b.Mtu &&
			a.Gateway6 == b.Gateway6 && a.Slot == b.Slot && slices.Equal(a.Addresses, b.Addresses)
	})
}

// Configure makes the interfaces wanted of the cards, under their names in order, and begins to hide the other cards: Settle.
func (c *Cards) Configure(wanted []*tetherv1.Interface) error { return c.configure(wanted, false) }

// Change is Configure while processes run: an interface without a name in wanted keeps the one that it has.
func (c *Cards) Change(wanted []*tetherv1.Interface) error { return c.configure(wanted, true) }

func (c *Cards) configure(wanted []*tetherv1.Interface, keepNames bool) error {
	decoded, err := decode(wanted)
	if err != nil {
		return err
	}
	slots, err := choose(decoded, c.cards)
	if err != nil { // a card may have been plugged in
		if err := c.list(); err != nil {
			return err
		}
		if slots, err = choose(decoded, c.cards); err != nil {
			return err
		}
	}
	c.whole = false
	if err := c.Settle(); err != nil {
		return err
	}
	for _, slot := range slots {
		if err := c.show(&c.cards[slot]); err != nil {
			return err
		}
	}
	steps, then := plan(c.state, decoded, slots, names(decoded, slots, c.cards, keepNames))
	for _, s := range steps {
		if err := c.do(s); err != nil {
			return errors.Join(fmt.Errorf("cannot configure network: %s: %w", s, err), c.look())
		}
	}
	c.state, c.wanted, c.whole = then, wanted, true
	return c.hideAllBut(slots)
}

// look reads how the cards are, where that may not be as it was made.
func (c *Cards) look() error {
	c.gw = [2]gateway{}
	for i := range c.cards {
		if err := c.lookAt(&c.cards[i]); err != nil {
			return err
		}
	}
	for f, number := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := c.kernel.RouteListFiltered(number, &netlink.Route{Dst: nil}, netlink.RT_FILTER_DST)
		if err != nil {
			return fmt.Errorf("cannot list routes: %w", err)
		}
		for _, r := range routes {
			address, ok := netip.AddrFromSlice(r.Gw)
			if ok && slices.ContainsFunc(c.cards, func(k card) bool { return k.index == r.LinkIndex }) {
				c.gw[f] = gateway{r.LinkIndex, address.Unmap()}
			}
		}
	}
	return nil
}

func (c *Cards) lookAt(k *card) error {
	if k.index == 0 {
		return nil
	}
	l, err := c.kernel.LinkByIndex(k.index)
	if err != nil {
		return fmt.Errorf("cannot find network card %d: %w", k.slot, err)
	}
	a := l.Attrs()
	k.name, k.mac, k.mtu, k.up, k.ipv6 = a.Name, a.HardwareAddr.String(), a.MTU, a.Flags&net.FlagUp != 0, ipv6Unknown
	addresses, err := c.kernel.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("cannot list addresses: %w", err)
	}
	k.addresses = nil
	for _, a := range addresses {
		ip, ok := netip.AddrFromSlice(a.IP)
		bits, _ := a.Mask.Size()
		if ip = ip.Unmap(); ok && !(ip.Is6() && ip.IsLinkLocalUnicast()) { // that is the kernel's own
			k.addresses = append(k.addresses, netip.PrefixFrom(ip, bits))
		}
	}
	return nil
}

// do does a step.
func (c *Cards) do(s step) error {
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: s.link}}
	switch s.do {
	case down:
		return c.kernel.LinkSetDown(link)
	case rename:
		return c.kernel.LinkSetName(link, s.name)
	case setMAC:
		return c.kernel.LinkSetHardwareAddr(link, s.mac)
	case setMTU:
		return c.kernel.LinkSetMTU(link, s.mtu)
	case quiet:
		return setIPv6(s.name, "accept_ra=0", "autoconf=0", "accept_dad=0", "disable_ipv6=0")
	case noIPv6:
		return setIPv6(s.name, "disable_ipv6=1")
	case forget:
		if err := c.kernel.AddrDel(link, &netlink.Addr{IPNet: ipNet(s.address)}); !errors.Is(err, unix.EADDRNOTAVAIL) {
			return err
		}
		return nil // with another one of its network
	case address:
		addr := &netlink.Addr{IPNet: ipNet(s.address)}
		if s.address.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		return c.kernel.AddrReplace(link, addr)
	case up:
		return c.kernel.LinkSetUp(link)
	case noRoute:
		if err := c.kernel.RouteDel(defaultRoute(s)); !errors.Is(err, unix.ESRCH) {
			return err
		}
		return nil // with its address
	default:
		return c.kernel.RouteReplace(defaultRoute(s))
	}
}

func defaultRoute(s step) *netlink.Route {
	return &netlink.Route{LinkIndex: s.link, Gw: s.gateway.AsSlice(), Protocol: unix.RTPROT_STATIC}
}

// setIPv6 sets a card's values of Linux' Documentation/networking/ip-sysctl.rst. A kernel without IPv6 has none.
func setIPv6(card string, values ...string) error {
	for _, v := range values {
		key, value, _ := strings.Cut(v, "=")
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+card+"/"+key, []byte(value), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// hideAllBut begins to hide the cards that are in none of the slots. A card that is hidden has no interface: its driver lets go of it, and
// takes it up again when it is wanted. That is mostly waiting in the kernel, so it is done beside, and at once for all: Settle.
func (c *Cards) hideAllBut(slots []int) error {
	for i := range c.cards {
		k := &c.cards[i]
		if k.index == 0 || slices.Contains(slots, k.slot) {
			continue
		}
		if k.device == "" { // nothing has a driver here; it is at least down
			k.up = false
			if err := c.kernel.LinkSetDown(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: k.index}}); err != nil {
				return err
			}
			continue
		}
		driver, err := filepath.EvalSymlinks(netDir + k.name + "/device/driver")
		if err != nil {
			return fmt.Errorf("cannot hide network card %d: %w", k.slot, err)
		}
		*k = card{slot: k.slot, device: k.device, driver: driver, mac: k.mac}
		done := make(chan error, 1)
		go func() { done <- os.WriteFile(driver+"/unbind", []byte(k.device), 0) }()
		c.hiding = append(c.hiding, done)
	}
	return nil
}

// Settle waits until the cards are hidden that are to be.
func (c *Cards) Settle() (err error) {
	for _, done := range c.hiding {
		if herr := <-done; herr != nil {
			err = errors.Join(err, fmt.Errorf("cannot hide a network card: %w", herr))
		}
	}
	c.hiding = nil
	return err
}

// show gives a hidden card an interface again.
func (c *Cards) show(k *card) error {
	if k.index != 0 {
		return nil
	}
	err := os.WriteFile(k.driver+"/bind", []byte(k.device), 0)
	var found []string
	if err == nil {
		found, err = filepath.Glob(k.driver + "/" + k.device + "/net/*") // what is bound has a link in its driver's directory
	}
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("its driver %s gave it %d interfaces", k.driver, len(found))
	}
	var index, mac []byte
	if err == nil {
		index, err = os.ReadFile(found[0] + "/ifindex")
	}
	if err == nil {
		mac, err = os.ReadFile(found[0] + "/address")
	}
	if err == nil {
		k.index, err = strconv.Atoi(strings.TrimSpace(string(index)))
	}
	if err != nil {
		return fmt.Errorf("cannot take network card %d into use: %w", k.slot, err)
	}
	k.name, k.mac = filepath.Base(found[0]), strings.TrimSpace(string(mac))
	return nil
}

// Interfaces are the interfaces that were configured last, with the names and MAC addresses that they have.
func (c *Cards) Interfaces() []*tetherv1.Interface {
	decoded, err := decode(c.wanted)
	if err != nil {
		return nil
	}
	slots, err := choose(decoded, c.cards)
	if err != nil {
		return nil
	}
	all := make([]*tetherv1.Interface, len(slots))
	for n, slot := range slots {
		w, k := c.wanted[n], c.cards[slot]
		all[n] = &tetherv1.Interface{
			Mac: k.mac, Name: k.name, Addresses: w.Addresses, Gateway: w.Gateway, Gateway6: w.Gateway6, Mtu: w.Mtu, Slot: uint32(slot) + 1,
		}
	}
	return all
}

// carrierPoll is the pause between two checks of AwaitCarrier. Mostly the first check finds the link up.
const carrierPoll = time.Millisecond

// AwaitCarrier waits until the cards that are up have their link, at most until ctx ends.
func (c *Cards) AwaitCarrier(ctx context.Context) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	for _, k := range c.cards {
		if !k.up {
			continue
		}
		if err := awaitCarrier(ctx, socket, k.name); err != nil {
			return err
		}
	}
	return nil
}

func awaitCarrier(ctx context.Context, socket int, card string) error {
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
