// Package netconf configures the machine's network cards: Make plans, which is a pure function, and Apply does.
package netconf

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// maxMTU is the largest frame that virtio-net and vmxnet3 take (Linux, ETH_MAX_MTU), in bytes.
const maxMTU = 65535

// Link is a network card that the kernel has found.
type Link struct {
	Index int
	Name  string
	MAC   string // lower case, colons
}

// Step is one change, in the order of the plan.
type Step struct {
	Do      Action
	Link    int // index
	Name    string
	MTU     int
	Address netip.Prefix
	Gateway netip.Addr
}

// Action is what a step does.
type Action int

// Actions.
const (
	Rename  Action = iota // Link gets Name; it is down
	SetMTU                // Link gets MTU
	Quiet                 // Link's IPv6 addresses, link-local too, are usable at once: no duplicate address detection
	NoIPv6                // Link gets no IPv6 address, not even a link-local one
	Address               // Link gets Address
	Up                    // Link is brought up
	Route                 // the default route leads through Link to Gateway
)

func (s Step) String() string {
	switch s.Do {
	case Rename:
		return fmt.Sprintf("link %d: name %s", s.Link, s.Name)
	case SetMTU:
		return fmt.Sprintf("link %d: mtu %d", s.Link, s.MTU)
	case Quiet:
		return fmt.Sprintf("link %d: no duplicate address detection on %s", s.Link, s.Name)
	case NoIPv6:
		return fmt.Sprintf("link %d: no IPv6 on %s", s.Link, s.Name)
	case Address:
		return fmt.Sprintf("link %d: address %s", s.Link, s.Address)
	case Up:
		return fmt.Sprintf("link %d: up", s.Link)
	default:
		return fmt.Sprintf("link %d: default route by %s", s.Link, s.Gateway)
	}
}

// Make plans what turns the links present, in the kernel's order and without loopback, into the interfaces wanted.
func Make(wanted []*tetherv1.Interface, present []Link) ([]Step, error) {
	var steps []Step
	taken := map[int]bool{}
	for n, w := range wanted {
		l, err := choose(w, n, present, taken)
		if err != nil {
			return nil, err
		}
		taken[l.Index] = true
		own, err := plan(w, n, l)
		if err != nil {
			return nil, fmt.Errorf("cannot configure interface %d: %w", n, err)
		}
		steps = append(steps, own...)
	}
	return steps, nil
}

// choose finds the link of the n-th interface: by MAC, else the n-th.
func choose(w *tetherv1.Interface, n int, present []Link, taken map[int]bool) (Link, error) {
	for i, l := range present {
		match := i == n
		if w.Mac != "" {
			match = strings.EqualFold(l.MAC, w.Mac)
		}
		if match && !taken[l.Index] {
			return l, nil
		}
	}
	if w.Mac != "" {
		return Link{}, fmt.Errorf("cannot find network card with MAC address %s", w.Mac)
	}
	return Link{}, fmt.Errorf("cannot find network card %d: the machine has %d", n, len(present))
}

func plan(w *tetherv1.Interface, n int, l Link) ([]Step, error) {
	name := w.Name
	if name == "" {
		name = fmt.Sprintf("eth%d", n)
	}
	if len(name) >= 16 || strings.ContainsAny(name, "/ \t\n") || name == "." || name == ".." { // Linux, dev_valid_name
		return nil, fmt.Errorf("malformed name %q", name)
	}
	var steps []Step
	if name != l.Name {
		steps = append(steps, Step{Do: Rename, Link: l.Index, Name: name})
	}
	if w.Mtu > maxMTU {
		return nil, fmt.Errorf("MTU %d is over %d", w.Mtu, maxMTU)
	}
	if w.Mtu != 0 {
		steps = append(steps, Step{Do: SetMTU, Link: l.Index, MTU: int(w.Mtu)})
	}
	addresses, err := addressSteps(w, l)
	if err != nil {
		return nil, err
	}
	steps = append(steps, Step{Do: ipv6(addresses), Link: l.Index, Name: name})
	steps = append(append(steps, addresses...), Step{Do: Up, Link: l.Index})
	if w.Gateway == "" {
		return steps, nil
	}
	gateway, err := netip.ParseAddr(w.Gateway)
	if err != nil {
		return nil, fmt.Errorf("malformed gateway: %w", err)
	}
	return append(steps, Step{Do: Route, Link: l.Index, Gateway: gateway}), nil
}

// ipv6 is as Docker has it: a card without an IPv6 address of the spec's has none at all. It also spares each boot the
// kernel's address configuration.
func ipv6(addresses []Step) Action {
	if slices.ContainsFunc(addresses, func(s Step) bool { return s.Address.Addr().Is6() }) {
		return Quiet
	}
	return NoIPv6
}

func addressSteps(w *tetherv1.Interface, l Link) ([]Step, error) {
	var steps []Step
	for _, text := range w.Addresses {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("malformed address: %w", err)
		}
		steps = append(steps, Step{Do: Address, Link: l.Index, Address: prefix})
	}
	return steps, nil
}

// ipNet is p with all bits of its address, as netlink wants it.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
