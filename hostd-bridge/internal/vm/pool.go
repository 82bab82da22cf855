package vm

import (
	"fmt"
	"slices"

	"github.com/containervm/containervm/hostd-bridge/internal/vm/journal"
)

// RootPool is the moref value of the resource pool that holds all others.
const RootPool = "resgroup-root"

// Pool is a resource pool at one moment; like a VM it is never changed once it is published.
type Pool struct {
	Ref    string `json:"-"`
	Name   string `json:"name"`
	Parent string `json:"parent"` // moref value; empty for the root
	CPU    Limits `json:"cpu"`    // MHz
	Memory Limits `json:"memory"` // MiB; Limit is enforced at power-on
}

// Limits are the settings of a resource allocation.
type Limits struct {
	Reservation int64 `json:"reservation"`
	Limit       int64 `json:"limit"` // Unlimited: none
	Shares      int32 `json:"shares"`
}

// Unlimited is the Limit that sets none, as in vSphere's ResourceAllocationInfo.
const Unlimited = -1

func poolKey(ref string) string { return "pool/" + ref }

// Pools returns all resource pools, the root first.
func (i *Inventory) Pools() []*Pool {
	i.mu.Lock()
	defer i.mu.Unlock()
	pools := make([]*Pool, 0, len(i.pools))
	for _, p := range i.pools {
		pools = append(pools, p)
	}
	slices.SortFunc(pools, func(a, b *Pool) int { return poolOrder(a) - poolOrder(b) })
	return pools
}

// poolOrder is the number in a pool's reference; the root comes first.
func poolOrder(p *Pool) (n int) {
	_, _ = fmt.Sscanf(p.Ref, "resgroup-%d", &n)
	return n
}

// Pool returns the resource pool with the moref value ref.
func (i *Inventory) Pool(ref string) (*Pool, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	p, ok := i.pools[ref]
	return p, ok
}

// CreatePool makes a resource pool below p.Parent and returns its moref value. p.Ref is ignored.
func (i *Inventory) CreatePool(p Pool) (string, error) {
	i.naming.Lock()
	defer i.naming.Unlock()
	i.mu.Lock()
	defer i.mu.Unlock()
	if _, ok := i.pools[p.Parent]; !ok {
		return "", &NotFoundError{Ref: p.Parent}
	}
	if err := i.checkPool(&p); err != nil {
		return "", err
	}
	next := i.next
	next.Pool++
	p.Ref = fmt.Sprintf("resgroup-%d", next.Pool)
	if err := i.recordPool(next, &p); err != nil {
		return "", err
	}
	i.next, i.pools[p.Ref] = next, &p
	i.signal.Wake()
	return p.Ref, nil
}

// UpdatePool changes a resource pool's name and limits, also while its VMs run. The root's name stays.
func (i *Inventory) UpdatePool(ref string, edit func(*Pool)) error {
	i.naming.Lock()
	defer i.naming.Unlock()
	i.mu.Lock()
	defer i.mu.Unlock()
	old, ok := i.pools[ref]
	if !ok {
		return &NotFoundError{Ref: ref}
	}
	next := *old
	edit(&next)
	next.Ref, next.Parent = old.Ref, old.Parent
	if err := i.checkPool(&next); err != nil {
		return err
	}
	if err := i.recordPool(i.next, &next); err != nil {
		return err
	}
	i.pools[ref] = &next
	i.signal.Wake()
	return nil
}

// DestroyPool removes a resource pool; its VMs and pools go to its parent, as in vSphere. All of that is one record of the journal.
func (i *Inventory) DestroyPool(ref string) error {
	i.naming.Lock()
	defer i.naming.Unlock()
	p, ok := i.Pool(ref)
	switch {
	case !ok:
		return &NotFoundError{Ref: ref}
	case ref == RootPool:
		return &InUseError{Name: p.Name, Why: "the root resource pool belongs to the host"}
	}
	changes := []journal.Change{journal.Delete(poolKey(ref))}
	put := func(key string, value any) error {
		c, err := journal.Put(key, value)
		changes = append(changes, c)
		return err
	}
	var pools []*Pool
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
	vms := map[*entry]*VM{}
	for _, e := range i.all() {
		if i.snapshot(e).Pool != ref { // nobody else moves a VM, and none is made: naming is held
			continue
		}
		e.write.Lock()
		defer e.write.Unlock()
		next := i.snapshot(e).clone()
		next.Pool = p.Parent
		vms[e] = next
		if err := put(vmKey(next.Ref), next); err != nil {
			return err
		}
	}
	if err := i.opt.Journal.Append(changes...); err != nil {
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

func (i *Inventory) all() []*entry {
	i.mu.Lock()
	defer i.mu.Unlock()
	out := make([]*entry, 0, len(i.entries))
	for _, e := range i.entries {
		out = append(out, e)
	}
	return out
}

// checkPool says what is wrong with a pool; the caller holds mu.
func (i *Inventory) checkPool(p *Pool) error {
	if !validName(p.Name) {
		return &InvalidNameError{Name: p.Name}
	}
	for _, l := range []Limits{p.CPU, p.Memory} {
		if l.Limit < Unlimited || l.Reservation < 0 || (l.Limit >= 0 && l.Reservation > l.Limit) {
			return &ArgumentError{Property: "limit", Why: "a limit is -1 or at least the reservation, which is not negative"}
		}
	}
	for _, other := range i.pools {
		if other.Ref != p.Ref && other.Parent == p.Parent && other.Name == p.Name {
			return &DuplicateNameError{Name: p.Name, Ref: other.Ref}
		}
	}
	return nil
}

func (i *Inventory) recordPool(next counters, p *Pool) error {
	pool, err := journal.Put(poolKey(p.Ref), p)
	if err != nil {
		return err
	}
	count, err := journal.Put(countersKey, next)
	if err != nil {
		return err
	}
	return i.opt.Journal.Append(pool, count)
}

// admitPool checks the memory limits of a pool and of those above it; the caller holds mu.
func (i *Inventory) admitPool(ref string, want int64) error {
	for p := i.pools[ref]; p != nil; p = i.pools[p.Parent] {
		if p.Memory.Limit == Unlimited {
			continue
		}
		if free := p.Memory.Limit - i.poolMemory(p.Ref); want > free {
			return &MemoryError{Where: "resource pool " + p.Name, Requested: want, Available: max(free, 0)}
		}
	}
	return nil
}

// poolMemory returns the memory in MiB of the VMs that run in a pool or below it; the caller holds mu.
func (i *Inventory) poolMemory(ref string) (sum int64) {
	for _, e := range i.entries {
		if e.reserved && i.within(e.vm.Pool, ref) {
			sum += int64(e.vm.MemoryMiB)
		}
	}
	return sum
}

func (i *Inventory) within(pool, ancestor string) bool {
	for p := i.pools[pool]; p != nil; p = i.pools[p.Parent] {
		if p.Ref == ancestor {
			return true
		}
	}
	return false
}
