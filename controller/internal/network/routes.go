package network

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Routes are the networks that a machine has routes to, but for its default routes.
type Routes struct {
	Connected []netip.Prefix // it is in them itself
	Further   []netip.Prefix // it reaches them by a router
}

// routesHere are those of this machine.
func routesHere() (r Routes, err error) {
	all, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return r, fmt.Errorf("cannot list the routes of this machine: %w", err)
	}
	for _, route := range all {
		if route.Dst == nil {
			continue
		}
		a, ok := netip.AddrFromSlice(route.Dst.IP)
		bits, _ := route.Dst.Mask.Size()
		a = a.Unmap()
		if !ok || bits == 0 || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsLoopback() {
			continue
		}
		to := &r.Connected
		if route.Gw != nil || len(route.MultiPath) > 0 {
			to = &r.Further
		}
		*to = append(*to, netip.PrefixFrom(a, bits))
	}
	return r, nil
}
