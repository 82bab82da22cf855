package netconf

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Configure brings up loopback and makes the interfaces wanted of the cards that the kernel has found.
func Configure(wanted []*tetherv1.Interface) error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("cannot list network cards: %w", err)
	}
	var present []Link
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback == 0 {
			present = append(present, Link{Index: a.Index, Name: a.Name, MAC: a.HardwareAddr.String()})
			continue
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return fmt.Errorf("cannot bring up loopback: %w", err)
		}
	}
	steps, err := Make(wanted, present)
	if err != nil {
		return err
	}
	return Apply(steps)
}

// Apply does the steps in order and stops at the first that fails.
func Apply(steps []Step) error {
	for _, s := range steps {
		if err := s.apply(); err != nil {
			return fmt.Errorf("cannot configure network: %s: %w", s, err)
		}
	}
	return nil
}

func (s Step) apply() error {
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: s.Link}}
	switch s.Do {
	case Rename:
		return netlink.LinkSetName(link, s.Name)
	case SetMTU:
		return netlink.LinkSetMTU(link, s.MTU)
	case Quiet:
		return setIPv6(s.Name, "accept_dad", "0") // also for the link-local address
	case NoIPv6:
		return setIPv6(s.Name, "disable_ipv6", "1")
	case Address:
		addr := &netlink.Addr{IPNet: ipNet(s.Address)}
		if s.Address.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		return netlink.AddrReplace(link, addr)
	case Up:
		return netlink.LinkSetUp(link)
	default:
		return netlink.RouteReplace(&netlink.Route{LinkIndex: s.Link, Gw: s.Gateway.AsSlice(), Protocol: unix.RTPROT_STATIC})
	}
}

// setIPv6 sets a card's value of Linux' Documentation/networking/ip-sysctl.rst. A kernel without IPv6 has none.
func setIPv6(card, key, value string) error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+card+"/"+key, []byte(value), 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
