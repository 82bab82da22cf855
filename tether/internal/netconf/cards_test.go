package netconf

import (
	"context"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// pairs gives the calling thread a network namespace of its own with cards, which are ends of pairs: their other ends are up.
func pairs(t *testing.T, count int) *Cards {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for a network namespace; try: sudo go test")
	}
	runtime.LockOSThread() // never unlocked: the thread, with its namespace, ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("cannot make a network namespace: %v", err)
	}
	for n := range count {
		number := strconv.Itoa(n)
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "card" + number}, PeerName: "peer" + number}); err != nil {
			t.Skipf("cannot make a card: %v", err)
		}
		peer, err := netlink.LinkByName("peer" + number)
		must(t, err)
		must(t, netlink.LinkSetUp(peer))
	}
	// Tunnels that some kernels give every namespace are no cards.
	c, err := find(func(name string) (string, bool) { return "", strings.HasPrefix(name, "card") })
	must(t, err)
	if c.Count() != count {
		t.Fatalf("%d cards", c.Count())
	}
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// addresses are those of an interface, without the kernel's own.
func addresses(t *testing.T, name string) []string {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	all, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	must(t, err)
	var texts []string
	for _, a := range all {
		if !a.IP.IsLinkLocalUnicast() {
			texts = append(texts, a.IPNet.String())
		}
	}
	slices.Sort(texts)
	return texts
}

// routed is the gateway that leads to the address, or the error.
func routed(to string) string {
	routes, err := netlink.RouteGet(net.ParseIP(to))
	if err != nil || len(routes) != 1 {
		return "none"
	}
	return routes[0].Gw.String()
}

// A container from its boot on: it is connected with a second network, loses the first, and is forked.
func TestConfigure(t *testing.T) {
	c := pairs(t, 3)
	first := &tetherv1.Interface{Slot: 1, Addresses: []string{"172.17.0.2/16"}, Gateway: "172.17.0.1", Mtu: 1400}
	must(t, c.Configure([]*tetherv1.Interface{first}))
	if got := addresses(t, "eth0"); !slices.Equal(got, []string{"172.17.0.2/16"}) || routed("192.0.2.1") != "172.17.0.1" {
		t.Errorf("%v, by %s", got, routed("192.0.2.1"))
	}
	l, err := netlink.LinkByName("eth0")
	must(t, err)
	if l.Attrs().MTU != 1400 || !c.Same([]*tetherv1.Interface{first}) || c.Same(nil) {
		t.Errorf("MTU %d", l.Attrs().MTU)
	}

	second := &tetherv1.Interface{Slot: 3, Mac: "02:42:00:00:00:07", Addresses: []string{"10.1.0.2/24", "fd01::2/64"}, Gateway: "10.1.0.1", Gateway6: "fd01::1"}
	must(t, c.Change([]*tetherv1.Interface{first, second}))
	if got := addresses(t, "eth1"); !slices.Equal(got, []string{"10.1.0.2/24", "fd01::2/64"}) {
		t.Errorf("%v", got)
	}
	if routed("192.0.2.1") != "172.17.0.1" || routed("2001:db8::1") != "fd01::1" {
		t.Errorf("by %s and %s", routed("192.0.2.1"), routed("2001:db8::1"))
	}
	is := c.Interfaces()
	if len(is) != 2 || is[0].Name != "eth0" || is[1].Name != "eth1" || is[1].Mac != second.Mac || is[1].Slot != 3 {
		t.Errorf("interfaces %v", is)
	}

	must(t, c.Change([]*tetherv1.Interface{second}))
	if routed("192.0.2.1") != "10.1.0.1" || len(c.Interfaces()) != 1 || c.Interfaces()[0].Name != "eth1" {
		t.Errorf("by %s, %v", routed("192.0.2.1"), c.Interfaces())
	}

	forked := &tetherv1.Interface{Slot: 3, Mac: "02:42:00:00:00:08", Addresses: []string{"10.1.0.3/24", "fd01::3/64"}, Gateway: "10.1.0.1", Gateway6: "fd01::1"}
	l, err = netlink.LinkByName("eth1")
	must(t, err)
	must(t, netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 9, 9, 9).To4(), Mask: net.CIDRMask(32, 32)}})) // the container's own doing
	must(t, c.ForgetAddresses([]*tetherv1.Interface{forked}))
	if got := addresses(t, "eth1"); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
	macs, ok := c.MACs([]*tetherv1.Interface{forked})
	if !ok || macs[2] != forked.Mac {
		t.Errorf("MAC addresses %v, %v", macs, ok)
	}
	must(t, c.SetMACs(macs))
	must(t, c.Change([]*tetherv1.Interface{forked}))
	if got := addresses(t, "eth1"); !slices.Equal(got, []string{"10.1.0.3/24", "fd01::3/64"}) || routed("192.0.2.1") != "10.1.0.1" || routed("2001:db8::1") != "fd01::1" {
		t.Errorf("%v, by %s and %s", got, routed("192.0.2.1"), routed("2001:db8::1"))
	}
	l, err = netlink.LinkByName("eth1")
	must(t, err)
	if l.Attrs().HardwareAddr.String() != forked.Mac {
		t.Errorf("MAC address %s", l.Attrs().HardwareAddr)
	}
}

// What fails half way is known as it is, and can be put right.
func TestConfigureFails(t *testing.T) {
	c := pairs(t, 2)
	bad := []*tetherv1.Interface{{Slot: 1, Addresses: []string{"172.17.0.2/16"}, Gateway: "10.0.0.1"}} // a gateway that is not on its network
	if err := c.Configure(bad); err == nil || !strings.Contains(err.Error(), "default route by 10.0.0.1") {
		t.Errorf("%v", err)
	}
	if c.Same(bad) {
		t.Error("the failure counts as done")
	}
	must(t, c.Configure([]*tetherv1.Interface{{Slot: 1, Addresses: []string{"172.17.0.3/16"}, Gateway: "172.17.0.1"}}))
	if got := addresses(t, "eth0"); !slices.Equal(got, []string{"172.17.0.3/16"}) || routed("192.0.2.1") != "172.17.0.1" {
		t.Errorf("%v, by %s", got, routed("192.0.2.1"))
	}
}

// A card without IPv6 addresses has no link-local one either; with one it has, and at once.
func TestLinkLocal(t *testing.T) {
	c := pairs(t, 1)
	local := func() (n int) {
		l, err := netlink.LinkByName("eth0")
		must(t, err)
		all, err := netlink.AddrList(l, netlink.FAMILY_V6)
		must(t, err)
		for _, a := range all {
			if a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0 {
				n++
			}
		}
		return n
	}
	must(t, c.Configure([]*tetherv1.Interface{{Addresses: []string{"172.17.0.2/16"}}}))
	if local() != 0 {
		t.Error("a link-local address without IPv6")
	}
	must(t, c.Change([]*tetherv1.Interface{{Addresses: []string{"172.17.0.2/16", "fd00::2/64"}}}))
	if _, err := os.Stat("/proc/sys/net/ipv6/conf/eth0"); err != nil {
		t.Skip("this kernel has no IPv6")
	}
	for deadline := time.Now().Add(10 * time.Second); local() != 1; time.Sleep(time.Millisecond) { // the kernel makes it beside
		if time.Now().After(deadline) {
			t.Fatal("no link-local address with IPv6")
		}
	}
}

func TestAwaitCarrier(t *testing.T) {
	c := pairs(t, 1)
	must(t, c.Configure([]*tetherv1.Interface{{}}))
	must(t, c.AwaitCarrier(t.Context()))
	l, err := netlink.LinkByName("eth0")
	must(t, err)
	must(t, netlink.LinkSetDown(l))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := c.AwaitCarrier(ctx); err == nil {
		t.Error("a card without a link has one")
	}
}
