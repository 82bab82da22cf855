package inventory

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/journal"
)

// firstNetwork is the number in the reference of the network that every host has; those of others are greater.
const firstNetwork = 10

func networkKey(ref string) string { return networkKind + "/" + ref }

func defaultNetwork() *vm.Network {
	return &vm.Network{Ref: vm.DefaultNetwork, Name: hostapi.DefaultNetwork}
}

// Networks returns all networks, the oldest first.
func (i *Inventory) Networks() []*vm.Network {
	i.mu.Lock()
	defer i.mu.Unlock()
	networks := make([]*vm.Network, 0, len(i.networks))
	for _, n := range i.networks {
		networks = append(networks, n)
	}
	slices.SortFunc(networks, func(a, b *vm.Network) int { return cmp.Compare(networkOrder(a), networkOrder(b)) })
	return networks
}

// networkOrder is the number in a network's reference.
func networkOrder(n *vm.Network) (number int) {
	_, _ = fmt.Sscanf(n.Ref, "network-%d", &number)
	return number
}

// Network returns the network with the moref value ref.
func (i *Inventory) Network(ref string) (*vm.Network, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	n, ok := i.networks[ref]
	return n, ok
}

// NetworkNamed returns the network with a name.
func (i *Inventory) NetworkNamed(name string) (*vm.Network, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, n := range i.networks {
		if n.Name == name {
			return n, true
		}
	}
	return nil, false
}

// Layout changes with every change of a network.
func (i *Inventory) Layout() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.layout
}

// CreateNetwork makes a network without settings and returns its moref value.
func (i *Inventory) CreateNetwork(name string) (string, error) {
	if err := vm.CheckName(name); err != nil {
		return "", err
	}
	i.alloc.Lock()
	defer i.alloc.Unlock()
	if other, ok := i.NetworkNamed(name); ok {
		return "", &vm.DuplicateNameError{Name: name, Ref: other.Ref}
	}
	i.mu.Lock()
	i.next.Network = max(i.next.Network, firstNetwork) + 1
	next := i.next
	i.mu.Unlock()
	count, err := journal.Put(countersKey, next)
	if err != nil {
		return "", err
	}
	n := &vm.Network{Ref: fmt.Sprintf("network-%d", next.Network), Name: name}
	return n.Ref, i.putNetworkLocked(n, count)
}

// SetNetwork changes the settings of a network, also while VMs are in it.
func (i *Inventory) SetNetwork(ref string, s hostapi.NetworkSettings) error {
	if err := s.Check(); err != nil {
		return &vm.ArgumentError{Property: "settings of the network", Why: err.Error()}
	}
	i.alloc.Lock()
	defer i.alloc.Unlock()
	old, ok := i.Network(ref)
	if !ok {
		return &vm.NotFoundError{Ref: ref}
	}
	next := *old
	next.Settings = s
	return i.putNetworkLocked(&next)
}

// putNetworkLocked commits a network, with other changes, as one record. The caller holds alloc.
func (i *Inventory) putNetworkLocked(n *vm.Network, others ...journal.Change) error {
	doc, err := journal.Put(networkKey(n.Ref), n)
	if err != nil {
		return err
	}
	if err := i.journal.Commit(append(others, doc)...); err != nil {
		return err
	}
	i.publish(func() {
		i.networks[n.Ref] = n
		i.layout++
	})
	return nil
}

// RemoveNetwork removes a network that no card is in.
func (i *Inventory) RemoveNetwork(ref string) error {
	i.alloc.Lock()
	defer i.alloc.Unlock()
	n, ok := i.Network(ref)
	switch {
	case !ok:
		return &vm.NotFoundError{Ref: ref}
	case ref == vm.DefaultNetwork:
		return &vm.InUseError{Name: n.Name, Why: "the network belongs to the host"}
	}
	if err := i.closeNetwork(n); err != nil {
		return err
	}
	err := i.journal.Commit(journal.Delete(networkKey(ref)))
	i.publish(func() {
		delete(i.leaving, ref)
		if err == nil {
			delete(i.networks, ref)
			i.layout++
		}
	})
	return err
}

// closeNetwork lets no card into a network any more, unless there is one.
func (i *Inventory) closeNetwork(n *vm.Network) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, e := range i.entries {
		if e.vm.In(n.Ref) || e.claimed.In(n.Ref) {
			return &vm.InUseError{Name: n.Name, Why: "VM " + e.vm.Name + " has a card there"}
		}
	}
	i.leaving[n.Ref] = true
	return nil
}

// checkNetworksLocked checks that the networks of a VM's cards are there, and that each has one card of it. The caller holds mu.
func (i *Inventory) checkNetworksLocked(v *vm.VM) error {
	for at, card := range v.NICs {
		n, ok := i.networks[card.Network]
		if !ok || i.leaving[card.Network] {
			return &vm.NetworkError{Name: card.Network}
		}
		if slices.ContainsFunc(v.NICs[:at], func(c vm.Card) bool { return c.Network == card.Network }) {
			return &vm.DeviceError{Why: fmt.Sprintf("two network cards in network %q: a VM is in a network once", n.Name)}
		}
	}
	return nil
}
