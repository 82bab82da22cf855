package network

import (
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/containervm/containervm/controller/internal/ident"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// Want is a wish to be in a network.
type Want struct {
	Network string // name, ID or unique prefix of an ID; empty or "default" is the default network
	record.Wish
	CardMAC string // MAC address of the machine's card for it, which stays unless another is wished; empty: there is none yet
}

// uses are what operations in flight hold of the networks.
type uses struct {
	mu       sync.Mutex
	removing map[string]bool // IDs of networks that are about to go
	held     map[string]int  // by network ID: operations that need it to stay
	reserved map[string]map[*record.Endpoint]bool
	known    map[vsphere.Ref]known
}

// known are the endpoints of a VM as its record was read last.
type known struct {
	text      string
	endpoints []record.Endpoint
}

func newUses() *uses {
	return &uses{
		removing: map[string]bool{}, held: map[string]int{},
		reserved: map[string]map[*record.Endpoint]bool{}, known: map[vsphere.Ref]known{},
	}
}

// Reserve gives a machine that has the endpoints have, further ones: the lowest free address of each family unless another is wished,
// a MAC address, and the lowest free slots. All or none. Until release is called nobody else gets the addresses, and the networks
// stay; call it when the record of a VM that the inventory shows names them (record.KeyNetworks), or when there will be none.
//
// The errors have Docker's words, and classes by which the API answers with Docker's status.
func (s *Service) Reserve(have []record.Endpoint, wants ...Want) (further []record.Endpoint, release func(), err error) {
	u := s.uses
	u.mu.Lock()
	defer u.mu.Unlock()
	all := slices.Clone(have)
	var done []*record.Endpoint
	defer func() {
		if err != nil {
			u.release(done)
		}
	}()
	for _, w := range wants {
		n, err := s.find(w.Network)
		if err != nil {
			return nil, nil, err
		}
		e, err := s.endpoint(n, w, all)
		if err != nil {
			return nil, nil, err
		}
		u.reserve(e)
		done, all = append(done, e), append(all, *e)
	}
	return all[len(have):], sync.OnceFunc(func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.release(done)
	}), nil
}

func (u *uses) reserve(e *record.Endpoint) {
	if u.reserved[e.NetworkID] == nil {
		u.reserved[e.NetworkID] = map[*record.Endpoint]bool{}
	}
	u.reserved[e.NetworkID][e] = true
}

func (u *uses) release(all []*record.Endpoint) {
	for _, e := range all {
		delete(u.reserved[e.NetworkID], e)
		if len(u.reserved[e.NetworkID]) == 0 {
			delete(u.reserved, e.NetworkID)
		}
	}
}

// Hold keeps the networks of a machine's endpoints from being removed until release is called: while the machine is started. The
// error is Docker's when one is gone.
func (s *Service) Hold(endpoints []record.Endpoint) (release func(), err error) {
	u := s.uses
	u.mu.Lock()
	defer u.mu.Unlock()
	x := s.index.Read()
	for _, e := range endpoints {
		if n, ok := x.Networks[e.NetworkID]; !ok || n.Phase != "" || u.removing[n.ID] {
			return nil, errdefs.ErrNotFound.WithMessage("failed to set up container networking: network " + e.NetworkID + " not found")
		}
	}
	for _, e := range endpoints {
		u.held[e.NetworkID]++
	}
	return sync.OnceFunc(func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		for _, e := range endpoints {
			if u.held[e.NetworkID]--; u.held[e.NetworkID] == 0 {
				delete(u.held, e.NetworkID)
			}
		}
	}), nil
}

// endpoint makes a machine's endpoint in a network, beside those that it has. The caller holds the lock of uses.
func (s *Service) endpoint(n Network, w Want, have []record.Endpoint) (*record.Endpoint, error) {
	if n.PortGroup == "" {
		return nil, errdefs.ErrInvalidArgument.WithMessage("container cannot be connected to multiple networks with one of the networks in private (none) mode")
	}
	slot, err := freeSlot(n, have)
	if err != nil {
		return nil, err
	}
	if err := n.allows(w); err != nil {
		return nil, err
	}
	addresses, macs := s.taken(n.ID)
	e := &record.Endpoint{
		ID: ident.New(), NetworkID: n.ID, Network: n.Name, PortGroup: n.PortGroup, Slot: slot,
		Gateway4: n.IPv4.Gateway, Gateway6: n.IPv6.Gateway, Internal: n.Internal, MTU: n.MTU, Wish: w.Wish,
	}
	if e.IPv4, err = n.address(n.IPv4, w.IPv4, addresses); err != nil {
		return nil, err
	}
	if e.IPv6, err = n.address(n.IPv6, w.IPv6, addresses); err != nil {
		return nil, err
	}
	if w.MAC == "" && w.CardMAC != "" {
		e.MAC = w.CardMAC
		return e, nil
	}
	e.MAC, err = chooseMAC(w.MAC, e.IPv4, macs)
	return e, err
}

// freeSlot is the lowest slot that has no card.
func freeSlot(n Network, have []record.Endpoint) (int, error) {
	for slot := range hostapi.MaxCards {
		if !slices.ContainsFunc(have, func(e record.Endpoint) bool { return e.Slot == slot }) {
			if slices.ContainsFunc(have, func(e record.Endpoint) bool { return e.NetworkID == n.ID }) {
				return 0, errdefs.ErrPermissionDenied.WithMessage("endpoint already exists in network " + n.Name)
			}
			return slot, nil
		}
	}
	return 0, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(
		"a container is in %d networks at most: its machine has places for as many network cards; disconnect it from one first", hostapi.MaxCards))
}

// address gives a machine an address of a pool: the one that it wishes, or the lowest that is free.
func (n *Network) address(p Pool, wish netip.Addr, taken map[netip.Addr]bool) (netip.Prefix, error) {
	if p.IsZero() {
		return netip.Prefix{}, nil
	}
	a := wish
	switch {
	case !wish.IsValid():
		var ok bool
		if a, ok = p.free(taken); !ok {
			return netip.Prefix{}, errdefs.ErrInternal.WithMessage(fmt.Sprintf(
				"no available IPv%d addresses on this network's address pools: %s (%s)", family(p.Subnet.Addr()), n.Name, n.ID))
		}
	case !p.spare(wish) || taken[wish]:
		return netip.Prefix{}, errdefs.ErrPermissionDenied.WithMessage("Address already in use")
	}
	taken[a] = true
	return netip.PrefixFrom(a, p.Subnet.Bits()), nil
}

// taken are the addresses of both families that machines have in a network, or are about to have, and the MAC addresses that they have
// in any: a host gives each card one of its own, and a machine that was kept warm in one network brings its MAC address into another. The
// caller holds the lock of uses: what is reserved is looked at before the inventory, as it is released once the inventory shows it.
func (s *Service) taken(networkID string) (map[netip.Addr]bool, map[string]bool) {
	addresses, macs := map[netip.Addr]bool{}, map[string]bool{}
	add := func(e *record.Endpoint) {
		macs[e.MAC] = true
		if e.NetworkID == networkID {
			addresses[e.IPv4.Addr()], addresses[e.IPv6.Addr()] = true, true
		}
	}
	for _, reserved := range s.uses.reserved {
		for e := range reserved {
			add(e)
		}
	}
	s.eachEndpoint(func(_ *vsphere.VM, e *record.Endpoint) { add(e) })
	return addresses, macs
}

// eachEndpoint calls f for each endpoint in the records of VMs. The caller holds the lock of uses.
func (s *Service) eachEndpoint(f func(vm *vsphere.VM, e *record.Endpoint)) {
	u := s.uses
	vms := s.host.VMs()
	for i := range vms {
		vm := &vms[i]
		text := vm.Extra[record.KeyNetworks]
		if text == "" {
			continue
		}
		k, ok := u.known[vm.Ref]
		if !ok || k.text != text {
			k = known{text: text}
			var err error
			if k.endpoints, err = record.DecodeNetworks(text); err != nil {
				s.log.Warn("the networks of a VM cannot be read", "vm", vm.Name, "err", err)
			}
			u.known[vm.Ref] = k
		}
		for i := range k.endpoints {
			f(vm, &k.endpoints[i])
		}
	}
	if len(u.known) > 2*len(vms) { // those of VMs that are gone
		there := map[vsphere.Ref]bool{}
		for _, vm := range vms {
			there[vm.Ref] = true
		}
		for ref := range u.known {
			if !there[ref] {
				delete(u.known, ref)
			}
		}
	}
}

// macBytes is the length of a MAC address that a network card can have (EUI-48).
const macBytes = 6

// chooseMAC is the MAC address of an endpoint: the one that is wished, or one by Docker's rule, made of the IPv4 address. So who has
// an address next has also its MAC address, and no neighbour remembers another.
func chooseMAC(wish string, ip netip.Prefix, taken map[string]bool) (string, error) {
	if wish != "" {
		mac, err := net.ParseMAC(wish)
		switch {
		case err != nil || len(mac) != macBytes:
			return "", errdefs.ErrInvalidArgument.WithMessage("invalid MAC address: " + wish)
		case mac[0]&1 != 0 || slices.Equal(mac, make(net.HardwareAddr, macBytes)):
			return "", errdefs.ErrInvalidArgument.WithMessage("invalid MAC address: " + wish + " is no address of one card")
		case taken[mac.String()]:
			return "", errdefs.ErrPermissionDenied.WithMessage("MAC address " + mac.String() + " already in use")
		}
		return mac.String(), nil
	}
	mac := net.HardwareAddr{0x02, 0x42, 0, 0, 0, 0}
	if ip.IsValid() {
		b := ip.Addr().As4()
		copy(mac[2:], b[:])
	}
	for !ip.IsValid() || taken[mac.String()] {
		_, _ = rand.Read(mac[2:]) // never fails (crypto/rand)
		if !taken[mac.String()] {
			break
		}
	}
	return mac.String(), nil
}

// allows says in Docker's words why a wish cannot be in the network, whoever else is there.
func (n *Network) allows(w Want) error {
	var errs []error
	static := w.IPv4.IsValid() || w.IPv6.IsValid()
	if n.Name == network.NetworkBridge {
		if static {
			errs = append(errs, fmt.Errorf("user-specified IP address is supported on user-defined networks only"))
		}
		if len(w.Aliases) > 0 {
			errs = append(errs, fmt.Errorf("network-scoped aliases are only supported for user-defined networks"))
		}
	}
	errs = append(errs, n.IPv4.allows(w.IPv4, 4)...)
	errs = append(errs, n.IPv6.allows(w.IPv6, 6)...)
	return invalidAll("invalid endpoint settings", errs)
}
