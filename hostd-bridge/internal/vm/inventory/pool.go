package inventory

import (
	"fmt"
	"slices"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/journal"
)

func rootPool() *vm.Pool {
	none := vm.Limits{Limit: vm.Unlimited}
	return &vm.Pool{Ref: vm.RootPool, Name: "Resources", CPU: none, Memory: none}
}

// Pools returns all resource pools, the root first, then the oldest.
func (i *Inventory) Pools() []*vm.Pool {
	i.mu.Lock()
	defer i.mu.Unlock()
	pools := make([]*vm.Pool, 0, len(i.pools))
	for _, p := range i.pools {
		pools = append(pools, p)
	}
	slices.SortFunc(pools, func(a, b *vm.Pool) int { return poolOrder(a) - poolOrder(b) })
	return pools
}

// poolOrder is the number in a pool's reference; the root's is 0.
func poolOrder(p *vm.Pool) (n int) {
	_, _ = fmt.Sscanf(p.Ref, "resgroup-%d", &n)
	return n
}

// Pool returns the resource pool with the moref value ref.
func (i *Inventory) Pool(ref string) (*vm.Pool, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	p, ok := i.pools[ref]
	return p, ok
}

// CreatePool makes a resource pool below p.Parent and returns its moref value. p.Ref is ignored.
func (i *Inventory) CreatePool(p vm.Pool) (string, error) {
	i.alloc.Lock()
	defer i.alloc.Unlock()
	if _, ok := i.Pool(p.Parent); !ok {
		return "", &vm.NotFoundError{Ref: p.Parent}
	}
	i.mu.Lock()
	i.next.Pool++
	next := i.next
	i.mu.Unlock()
	p.Ref = fmt.Sprintf("resgroup-%d", next.Pool)
	count, err := journal.Put(countersKey, next)
	if err != nil {
		return "", err
	}
	return p.Ref, i.putPoolLocked(&p, count)
}

// UpdatePool changes a resource pool's name and limits, also while its VMs run. The root's name stays.
func (i *Inventory) UpdatePool(ref string, edit func(*vm.Pool)) error {
	i.alloc.Lock()
	defer i.alloc.Unlock()
	old, ok := i.Pool(ref)
	if !ok {
		return &vm.NotFoundError{Ref: ref}
	}
	next := *old
	edit(&next)
	next.Ref, next.Parent = old.Ref, old.Parent
	return i.putPoolLocked(&next)
}

// putPoolLocked checks a pool, and commits it with other changes as one record. The caller holds alloc.
func (i *Inventory) putPoolLocked(p *vm.Pool, others ...journal.Change) error {
	if err := p.Check(); err != nil {
		return err
	}
	for _, other := range i.Pools() {
		if other.Ref != p.Ref && other.Parent == p.Parent && other.Name == p.Name {
			return &vm.DuplicateNameError{Name: p.Name, Ref: other.Ref}
		}
	}
	doc, err := journal.Put(poolKey(p.Ref), p)
	if err != nil {
		return err
	}
	if err := i.journal.Commit(append(others, doc)...); err != nil {
		return err
	}
	i.publish(func() { i.pools[p.Ref] = p })
	return nil
}

// DestroyPool removes a resource pool; its VMs and pools go to its parent, as in vSphere. All of that is one record of the journal.
func (i *Inventory) DestroyPool(ref string) error {
	i.alloc.Lock()
	defer i.alloc.Unlock()
	p, ok := i.Pool(ref)
	switch {
	case !ok:
		return &vm.NotFoundError{Ref: ref}
	case ref == vm.RootPool:
		return &vm.InUseError{Name: p.Name, Why: "the root resource pool belongs to the host"}
	}
	changes := []journal.Change{journal.Delete(poolKey(ref))}
	put := func(key string, value any) error {
		c, err := journal.Put(key, value)
		changes = append(changes, c)
		return err
	}
	var pools []*vm.Pool
	for _, child := range i.Pools() {
		if child.Parent != ref {
			continue
		}
		next := *child
		next.Parent = p.Parent
		pools = append(pools, &next)
		if err := put(poolKey(next.Ref), &next); err != nil {
			return err
		}
	}
	vms := map[*Entry]*vm.VM{}
	for _, e := range i.Entries() {
		if e.VM().Pool != ref { // this stays so: who moves or allocates a VM holds alloc
			continue
		}
		e.commit.Lock()
		defer e.commit.Unlock()
		if e.removed {
			continue
		}
		next := e.VM().Copy()
		next.Pool = p.Parent
		vms[e] = next
		if err := put(vmKey(next.Ref), next); err != nil {
			return err
		}
	}
	if err := i.journal.Commit(changes...); err != nil {
		return err
	}
	i.publish(func() {
		delete(i.pools, ref)
		for _, next := range pools {
			i.pools[next.Ref] = next
		}
		for e, next := range vms {
			e.vm = next
		}
	})
	return nil
}
