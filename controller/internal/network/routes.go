package network

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// routes are the networks that this machine has routes to, but for the default routes: what containers reach by them would be hidden
// by a network of theirs with the same addresses.
func routes() ([]netip.Prefix, error) {
	all, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("cannot list the routes of this machine: %w", err)
	}
	var out []netip.Prefix
	for _, r := range all {
		if r.Dst == nil {
			continue
		}
		a, ok := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		a = a.Unmap()
		if ok && bits > 0 && !a.IsLinkLocalUnicast() && !a.IsMulticast() && !a.IsLoopback() {
			out = append(out, netip.PrefixFrom(a, bits))
		}
	}
	return out, nil
}
