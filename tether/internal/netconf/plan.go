// Package netconf configures the machine's network cards. Cards knows how they are, a plan, which is a pure function, says what turns
// that into what is wanted, and Cards does it: a fork changes what is another's and nothing else.
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

// card is a network card of the machine as it is.
type card struct {
	slot   int    // its number among the machine's cards, in the kernel's order of them at the boot, from 0
	device string // its name on its bus, as virtio2; empty: it is on none, and cannot be hidden
	driver string // directory of its driver in sysfs; known of a hidden card
	mac    string // lower case, colons

	index     int // the kernel's number of the interface; 0: the card is hidden
	name      string
	mtu       int // 0: not known
	up        bool
	ipv6      ipv6
	addresses []netip.Prefix
}

// ipv6 is what a card has of it.
type ipv6 int

const (
	ipv6Unknown ipv6 = iota // as the kernel has it
	ipv6Off
	ipv6On
)

// gateway is a default route.
type gateway struct {
	link    int // index; 0: there is none
	address netip.Addr
}

// state is how the network is. A plan changes it by its steps.
type state struct {
	cards []card     // by slot
	gw    [2]gateway // IPv4, IPv6
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

func (s state) clone() state {
	s.cards = slices.Clone(s.cards)
	for i := range s.cards {
		s.cards[i].addresses = slices.Clone(s.cards[i].addresses)
	}
	return s
}

// step is one change, in the order of the plan.
type step struct {
	do      action
	link    int // index
	name    string
	mac     net.HardwareAddr
	mtu     int
	address netip.Prefix
	gateway netip.Addr
}

// action is what a step does.
type action int

const (
	down    action = iota // link is taken down, so that it can be renamed
	rename                // link gets name
	setMAC                // link gets mac; virtio's and vmxnet3's cards take it while they are up
	setMTU                // link gets mtu
	quiet                 // link's IPv6 addresses, link-local too, are usable at once, and none comes by advertisement
	noIPv6                // link gets no IPv6 address, not even a link-local one
	forget                // link loses address
	address               // link gets address
	up                    // link is brought up
	noRoute               // the default route through link by gateway is taken away
	route                 // the default route leads through link to gateway
)

func (s step) String() string {
	switch s.do {
	case down:
		return fmt.Sprintf("link %d: down", s.link)
	case rename:
		return fmt.Sprintf("link %d: name %s", s.link, s.name)
	case setMAC:
		return fmt.Sprintf("link %d: MAC address %s", s.link, s.mac)
	case setMTU:
		return fmt.Sprintf("link %d: mtu %d", s.link, s.mtu)
	case quiet:
		return fmt.Sprintf("link %d: IPv6 on %s", s.link, s.name)
	case noIPv6:
		return fmt.Sprintf("link %d: no IPv6 on %s", s.link, s.name)
	case forget:
		return fmt.Sprintf("link %d: no address %s", s.link, s.address)
	case address:
		return fmt.Sprintf("link %d: address %s", s.link, s.address)
	case up:
		return fmt.Sprintf("link %d: up", s.link)
	case noRoute:
		return fmt.Sprintf("link %d: no default route by %s", s.link, s.gateway)
	default:
		return fmt.Sprintf("link %d: default route by %s", s.link, s.gateway)
	}
}

// want is an interface that was asked for, decoded.
type want struct {
	mac       net.HardwareAddr // nil: the card's own
	slot      int              // of the card, from 0; -1: not said
	name      string           // empty: not said
	mtu       int              // 0: as it is
	addresses []netip.Prefix
	gateways  [2]netip.Addr // the zero Addr: none
}

// decode checks what is wanted. The host's words are not trusted to be well formed.
func decode(wanted []*tetherv1.Interface) ([]want, error) {
	all := make([]want, len(wanted))
	for n, w := range wanted {
		var err error
		if all[n], err = decodeOne(w); err != nil {
			return nil, fmt.Errorf("cannot configure interface %d: %w", n, err)
		}
		named := func(other want) bool { return other.name == all[n].name && other.name != "" }
		if slices.ContainsFunc(all[:n], named) {
			return nil, fmt.Errorf("cannot configure interface %d: another one has the name %s, too", n, w.Name)
		}
	}
	return all, nil
}

func decodeOne(w *tetherv1.Interface) (d want, err error) {
	d = want{slot: int(w.GetSlot()) - 1, name: w.GetName(), mtu: int(w.GetMtu())}
	if w.GetMac() != "" {
		if d.mac, err = net.ParseMAC(w.Mac); err != nil || len(d.mac) != 6 {
			return d, fmt.Errorf("malformed MAC address %.40q", w.Mac)
		}
	}
	if len(d.name) >= 16 || strings.ContainsAny(d.name, "/: \t\n\v\f\r") || d.name == "." || d.name == ".." || d.name == "lo" { // Linux, dev_valid_name
		return d, fmt.Errorf("malformed name %.40q", d.name)
	}
	if w.GetMtu() > maxMTU {
		return d, fmt.Errorf("MTU %d is over %d", w.Mtu, maxMTU)
	}
	for _, text := range w.GetAddresses() {
		prefix, err := netip.ParsePrefix(text)
		if err != nil || prefix.Addr().Is4In6() {
			return d, fmt.Errorf("malformed address %.80q", text)
		}
		if !slices.Contains(d.addresses, prefix) {
			d.addresses = append(d.addresses, prefix)
		}
	}
	for _, text := range []string{w.GetGateway(), w.GetGateway6()} {
		if text == "" {
			continue
		}
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" || a.Is4In6() {
			return d, fmt.Errorf("malformed gateway %.80q", text)
		}
		if !d.gateways[family(a)].IsValid() {
			d.gateways[family(a)] = a
		}
	}
	return d, nil
}

// choose finds the card of each interface: the one with its MAC address, else that in its slot; one that says neither, or a MAC address
// alone that no card has, gets the n-th card. It returns slots.
func choose(wanted []want, cards []card) ([]int, error) {
	slots := make([]int, len(wanted))
	taken := map[int]bool{}
	take := func(n, slot int) {
		slots[n] = slot
		taken[slot] = true
	}
	rest := []int{}
	for n, w := range wanted { // what a MAC address says counts before what numbers say
		slots[n] = -1
		if w.mac != nil {
			i := slices.IndexFunc(cards, func(c card) bool { return c.mac == w.mac.String() && !taken[c.slot] })
			if i >= 0 {
				take(n, i)
				continue
			}
		}
		rest = append(rest, n)
	}
	for _, n := range rest {
		slot := wanted[n].slot
		if slot < 0 {
			slot = n
		}
		switch {
		case slot >= len(cards):
			return nil, fmt.Errorf("cannot find network card %d: the machine has %d", slot, len(cards))
		case taken[slot]:
			return nil, fmt.Errorf("cannot configure interface %d: network card %d is another one's", n, slot)
		}
		take(n, slot)
	}
	return slots, nil
}

// names are those of the interfaces: what each asked for, what its card has if keep is set, and for others the first of eth0, eth1, ...
// that is free.
func names(wanted []want, slots []int, cards []card, keep bool) []string {
	all, used := make([]string, len(wanted)), map[string]bool{}
	for n, w := range wanted {
		all[n] = w.name
		used[w.name] = true
	}
	for n, slot := range slots {
		if c := cards[slot]; all[n] == "" && keep && c.up && !used[c.name] {
			all[n] = c.name
			used[c.name] = true
		}
	}
	next := 0
	for n := range all {
		for ; all[n] == ""; next++ {
			if name := fmt.Sprintf("eth%d", next); !used[name] {
				all[n] = name
			}
		}
	}
	return all
}

// planner collects steps and keeps track of what they do.
type planner struct {
	state
	steps []step
	stale [2]bool // the kernel may have taken the default route of the family away
}

// plan says what turns s into what is wanted, none of whose cards is hidden, and what s is then. slots and names are those of the
// interfaces. Cards that are in none of the slots are about to be hidden: their default routes count as gone.
func plan(s state, wanted []want, slots []int, names []string) ([]step, state) {
	p := &planner{state: s.clone()}
	for i, c := range p.cards {
		if c.index != 0 && !slices.Contains(slots, i) {
			p.lose(c.index)
		}
	}
	for n := range wanted {
		p.name(slots[n], names[n])
	}
	for n, w := range wanted {
		p.configure(&p.cards[slots[n]], w)
	}
	for f := range p.gw {
		p.route(f, wanted, slots)
	}
	return p.steps, p.state
}

func (p *planner) add(s step) { p.steps = append(p.steps, s) }

// name renames a card, and before it one that has its name: it will have another, or be hidden.
func (p *planner) name(slot int, name string) {
	c := &p.cards[slot]
	if c.name == name {
		return
	}
	for other := range p.cards {
		if o := &p.cards[other]; other != slot && o.index != 0 && o.name == name {
			p.rename(o, fmt.Sprintf("cvm%d", o.slot))
		}
	}
	p.rename(c, name)
}

func (p *planner) rename(c *card, name string) {
	if c.up {
		p.add(step{do: down, link: c.index})
		c.up = false
		c.addresses = slices.DeleteFunc(c.addresses, func(a netip.Prefix) bool { return a.Addr().Is6() }) // keep_addr_on_down is 0
		p.lose(c.index)
	}
	p.add(step{do: rename, link: c.index, name: name})
	c.name = name
}

// lose notes that routes through a link may have gone.
func (p *planner) lose(link int) {
	for f, g := range p.gw {
		if g.link == link {
			p.stale[f] = true
		}
	}
}

func (p *planner) configure(c *card, w want) {
	if w.mac != nil && c.mac != w.mac.String() {
		p.add(step{do: setMAC, link: c.index, mac: w.mac})
		c.mac = w.mac.String()
	}
	if w.mtu != 0 && c.mtu != w.mtu {
		p.add(step{do: setMTU, link: c.index, mtu: w.mtu})
		c.mtu = w.mtu
	}
	// As Docker has it: a card without an IPv6 address of the spec's has none at all. It also spares each boot the kernel's address
	// configuration.
	six, mode, do := slices.ContainsFunc(w.addresses, func(a netip.Prefix) bool { return a.Addr().Is6() }), ipv6Off, noIPv6
	if six {
		mode, do = ipv6On, quiet
	}
	// What is not wanted goes first: an address that goes takes later ones of its network along (Linux, promote_secondaries).
	for _, a := range slices.Clone(c.addresses) {
		if slices.Contains(w.addresses, a) {
			continue
		}
		p.add(step{do: forget, link: c.index, address: a})
		c.addresses = slices.DeleteFunc(c.addresses, func(have netip.Prefix) bool {
			return have == a || have.Addr().Is4() && have.Masked() == a.Masked()
		})
		p.lose(c.index)
	}
	if c.ipv6 != mode {
		p.add(step{do: do, link: c.index, name: c.name})
		c.ipv6 = mode
	}
	for _, a := range w.addresses {
		if !slices.Contains(c.addresses, a) {
			p.add(step{do: address, link: c.index, address: a})
			c.addresses = append(c.addresses, a)
		}
	}
	if !c.up {
		p.add(step{do: up, link: c.index})
		c.up = true
	}
}

// route makes the default route of a family that of the first interface with a gateway and an address of it.
func (p *planner) route(f int, wanted []want, slots []int) {
	var to gateway
	for n, w := range wanted {
		if w.gateways[f].IsValid() && slices.ContainsFunc(w.addresses, func(a netip.Prefix) bool { return family(a.Addr()) == f }) {
			to = gateway{link: p.cards[slots[n]].index, address: w.gateways[f]}
			break
		}
	}
	have := p.gw[f]
	if have == to && !p.stale[f] {
		return
	}
	if have.link != 0 && have != to && slices.ContainsFunc(p.cards, func(c card) bool { return c.index == have.link }) {
		p.add(step{do: noRoute, link: have.link, gateway: have.address})
	}
	if to.link != 0 {
		p.add(step{do: route, link: to.link, gateway: to.address})
	}
	p.gw[f] = to
}

// ipNet is p with all bits of its address, as netlink wants it.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
