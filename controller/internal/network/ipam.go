package network

import (
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"math"
	"net/netip"
	"slices"

	"github.com/moby/moby/api/types/network"
)

// Longest prefixes of a subnet: the switch and a container have an address in it.
const (
	maxBits4 = 30
	maxBits6 = 126
)

// check says what is wrong with a pool.
func (p Pool) check() error {
	if p.IsZero() {
		return nil
	}
	longest := maxBits4
	if p.Subnet.Addr().Is6() {
		longest = maxBits6
	}
	switch {
	case p.Subnet != p.Subnet.Masked() || p.Subnet.Addr().Is4In6():
		return fmt.Errorf("%v is no subnet", p.Subnet)
	case p.Subnet.Bits() > longest:
		return fmt.Errorf("subnet %v is too small: the longest prefix is %d", p.Subnet, longest)
	case p.Range.IsValid() && (!p.Subnet.Contains(p.Range.Addr()) || p.Range.Bits() < p.Subnet.Bits() || p.Range != p.Range.Masked()):
		return fmt.Errorf("%v is no range of subnet %v", p.Range, p.Subnet)
	case !p.usable(p.Gateway):
		return fmt.Errorf("%v is no gateway in subnet %v", p.Gateway, p.Subnet)
	}
	for name, a := range p.Aux {
		if !p.Subnet.Contains(a) {
			return fmt.Errorf("auxiliary address %s, %v, is not in subnet %v", name, a, p.Subnet)
		}
	}
	return nil
}

// usable reports whether a machine can have an address: it is in the subnet, and not the subnet's own, nor its broadcast address.
func (p Pool) usable(a netip.Addr) bool {
	return p.Subnet.Contains(a) && a != p.Subnet.Addr() && (a.Is6() || a != last(p.Subnet))
}

// last is the last address of a subnet, which is IPv4's broadcast address (RFC 919).
func last(subnet netip.Prefix) netip.Addr {
	b := subnet.Addr().AsSlice()
	for bit := subnet.Bits(); bit < 8*len(b); bit++ {
		b[bit/8] |= 1 << (7 - bit%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// spare reports whether an address is nobody's by the pool's own word.
func (p Pool) spare(a netip.Addr) bool {
	if !p.usable(a) || a == p.Gateway {
		return false
	}
	for _, aux := range p.Aux {
		if a == aux {
			return false
		}
	}
	return true
}

// from is where addresses are taken from.
func (p Pool) from() netip.Prefix {
	if p.Range.IsValid() {
		return p.Range
	}
	return p.Subnet
}

// free returns the lowest address that is nobody's. It looks at one more than are taken, at most, beside those that the pool spares.
func (p Pool) free(taken map[netip.Addr]bool) (netip.Addr, bool) {
	from := p.from()
	for a := from.Addr(); a.IsValid() && from.Contains(a); a = a.Next() {
		if p.spare(a) && !taken[a] {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// firstUsable is the gateway of a pool that names none.
func (p Pool) firstUsable() netip.Addr {
	from := p.from()
	for a := from.Addr(); from.Contains(a); a = a.Next() {
		if p.spare(a) {
			return a
		}
	}
	return netip.Addr{}
}

// defaultPools yields Docker's default subnets (libnetwork/ipamutils): the first is that of the default network.
func defaultPools() iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for i := byte(17); i <= 31; i++ {
			if !yield(netip.PrefixFrom(netip.AddrFrom4([4]byte{172, i}), 16)) {
				return
			}
		}
		for i := 0; i < 256; i += 16 {
			if !yield(netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i)}), 20)) {
				return
			}
		}
	}
}

// errNoMoreSubnets has Docker's words.
var errNoMoreSubnets = errors.New("all predefined address pools have been fully subnetted")

// choose4 is the first of the default subnets that overlaps none of those taken.
func choose4(taken []netip.Prefix) (netip.Prefix, error) {
	for p := range defaultPools() {
		if !overlaps(p, taken) {
			return p, nil
		}
	}
	return netip.Prefix{}, errNoMoreSubnets
}

// choose6 is a random subnet of unique local addresses (RFC 4193, 3.1): fd, 40 random bits, the first of its subnets.
func choose6(taken []netip.Prefix) netip.Prefix {
	for {
		b := [16]byte{0xfd}
		_, _ = rand.Read(b[1:6]) // never fails (crypto/rand)
		if p := netip.PrefixFrom(netip.AddrFrom16(b), 64); !overlaps(p, taken) {
			return p
		}
	}
}

func overlaps(p netip.Prefix, taken []netip.Prefix) bool {
	return slices.ContainsFunc(taken, p.Overlaps)
}

// configured makes a pool of what a client asked for, whose subnet may be missing. The words are Docker's.
func configured(c network.IPAMConfig) (Pool, []error) {
	p := Pool{Subnet: unmap(c.Subnet), Range: unmap(c.IPRange), Gateway: c.Gateway.Unmap()}
	if !p.Subnet.IsValid() {
		return p, []error{errors.New("an IPAM configuration without a subnet is not supported: give one, or leave the whole configuration out")}
	}
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if p.Subnet != p.Subnet.Masked() {
		add("invalid subnet %s: it should be %s", p.Subnet, p.Subnet.Masked())
		p.Subnet = p.Subnet.Masked()
	}
	errs = append(errs, checkRange(p)...)
	if err := checkAddress(p.Gateway, p.Subnet); err != nil {
		add("invalid gateway %s: %w", p.Gateway, err)
	}
	for name, a := range c.AuxAddress {
		if err := checkAddress(a.Unmap(), p.Subnet); err != nil {
			add("invalid auxiliary address %s: %w", name, err)
			continue
		}
		if p.Aux == nil {
			p.Aux = map[string]netip.Addr{}
		}
		p.Aux[name] = a.Unmap()
	}
	if len(errs) > 0 {
		return p, errs
	}
	if !p.Gateway.IsValid() {
		p.Gateway = p.firstUsable()
	}
	if err := p.check(); err != nil {
		add("%w", err)
	}
	return p, errs
}

func unmap(p netip.Prefix) netip.Prefix {
	if p.IsValid() && p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}

func checkRange(p Pool) (errs []error) {
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch r := p.Range; {
	case !r.IsValid():
	case r.Addr().Is4() != p.Subnet.Addr().Is4():
		add("invalid ip-range %s: parent subnet is an IPv%d block", r, family(p.Subnet.Addr()))
	default:
		if r.Bits() < p.Subnet.Bits() {
			add("invalid ip-range %s: CIDR block is bigger than its parent subnet %s", r, p.Subnet)
		}
		if r != r.Masked() {
			add("invalid ip-range %s: it should be %s", r, r.Masked())
		}
		if !p.Subnet.Overlaps(r) {
			add("invalid ip-range %s: parent subnet %s doesn't contain ip-range", r, p.Subnet)
		}
	}
	return errs
}

func checkAddress(a netip.Addr, subnet netip.Prefix) error {
	switch {
	case !a.IsValid():
		return nil
	case a.Is4() != subnet.Addr().Is4():
		return fmt.Errorf("parent subnet is an IPv%d block", family(subnet.Addr()))
	case !subnet.Contains(a):
		return fmt.Errorf("parent subnet %s doesn't contain this address", subnet)
	}
	return nil
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 4
	}
	return 6
}

// status counts a pool's addresses: those that are in use, those that nobody can have among them, and those that may still be chosen.
func (p Pool) status(taken map[netip.Addr]bool) (s network.SubnetStatus) {
	used := map[netip.Addr]bool{p.Subnet.Addr(): true, p.Gateway: true}
	if p.Subnet.Addr().Is4() {
		used[last(p.Subnet)] = true
	}
	for _, a := range p.Aux {
		used[a] = true
	}
	for a := range taken {
		if p.Subnet.Contains(a) {
			used[a] = true
		}
	}
	s.IPsInUse = uint64(len(used))
	for a := range used {
		if p.from().Contains(a) {
			s.DynamicIPsAvailable++
		}
	}
	s.DynamicIPsAvailable = size(p.from()) - s.DynamicIPsAvailable
	return s
}

// size is how many addresses a prefix has, or the most that fits.
func size(p netip.Prefix) uint64 {
	if bits := p.Addr().BitLen() - p.Bits(); bits < 64 {
		return 1 << bits
	}
	return math.MaxUint64
}
