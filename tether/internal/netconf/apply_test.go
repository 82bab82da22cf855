package netconf

import (
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// TestConfigure configures a dummy card in a network namespace of its own.
func TestConfigure(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for a network namespace; try: sudo go test")
	}
	runtime.LockOSThread() // never unlocked: the thread, with its namespace, ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("cannot make a network namespace: %v", err)
	}
	card := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "card"}}
	if err := netlink.LinkAdd(card); err != nil {
		t.Skipf("cannot make a dummy card: %v", err)
	}
	wanted := []*tetherv1.Interface{{Mac: "", Name: "", Addresses: []string{"10.0.2.15/24"}, Gateway: "10.0.2.2", Mtu: 1400}}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links { // other tunnels that some kernels give every namespace are no cards
		if l.Type() != "dummy" && l.Attrs().Name != "lo" {
			wanted[0].Mac = cardMAC(t, "card")
		}
	}
	if err := Configure(wanted); err != nil {
		t.Fatal(err)
	}
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
	if err != nil || len(addrs) != 1 || addrs[0].IPNet.String() != "10.0.2.15/24" || l.Attrs().MTU != 1400 {
		t.Errorf("addresses %v, MTU %d: %v", addrs, l.Attrs().MTU, err)
	}
	routes, err := netlink.RouteGet([]byte{192, 0, 2, 1})
	if err != nil || len(routes) != 1 || routes[0].Gw.String() != "10.0.2.2" {
		t.Errorf("routes %v: %v", routes, err)
	}
}

func cardMAC(t *testing.T, name string) string {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().HardwareAddr.String()
}
