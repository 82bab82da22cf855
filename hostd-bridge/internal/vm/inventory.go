package vm

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/journal"
)

// Inventory owns the virtual machines of a host: every change of a VM goes through it, is journaled before it is
// answered, and wakes whoever waits on Signal.
type Inventory struct {
	opt    Options
	signal *Signal
	ops    sync.WaitGroup // one for each watch goroutine
	naming sync.Mutex     // held while names or MACs are given, and while the tree of pools changes: two operations must not choose the same
	claims sync.Mutex     // held while it is noted which VM will have a disk
	forks  sync.Mutex     // held while files come to forksDir or leave it

	mu       sync.Mutex
	entries  map[string]*entry
	pools    map[string]*Pool
	next     counters
	starting int64 // MiB that the starts under way will need of the host
	closing  bool
	stock    stock

	forking chan struct{}      // holds one token for each child that comes to life now
	stop    context.CancelFunc // ends the keeper
	keeping sync.WaitGroup     // the keeper
}

// entry is a VM's place in the inventory.
type entry struct {
	busy  chan struct{} // holds one token while an operation is under way
	write sync.Mutex    // held while the VM's next state is made and journaled

	// guarded by Inventory.mu
	vm       *VM
	machine  Machine       // nil when off
	ended    chan struct{} // closed when the end of machine has been recorded
	reserved bool          // counts as running in the admission of memory
	cost     int64         // its part of Inventory.starting
}

// counters give out what must never be given twice.
type counters struct {
	Ref  int    `json:"ref"`
	CID  uint32 `json:"cid"`
	Pool int    `json:"pool"`
}

// Signal is woken at every change.
func (i *Inventory) Signal() *Signal { return i.signal }

// Get returns the VM with the moref value ref.
func (i *Inventory) Get(ref string) (*VM, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	e, ok := i.entries[ref]
	if !ok || !e.visible() {
		return nil, false
	}
	return e.vm, true
}

// List returns all VMs, oldest first.
func (i *Inventory) List() []*VM {
	i.mu.Lock()
	defer i.mu.Unlock()
	vms := make([]*VM, 0, len(i.entries))
	for _, e := range i.entries {
		if e.visible() {
			vms = append(vms, e.vm)
		}
	}
	slices.SortFunc(vms, func(a, b *VM) int {
		return cmp.Or(cmp.Compare(len(a.Ref), len(b.Ref)), strings.Compare(a.Ref, b.Ref))
	})
	return vms
}

// visible says whether clients see the VM: one that is being made or destroyed is not there.
func (e *entry) visible() bool {
	return e.vm.Pending == nil || (e.vm.Pending.Kind != pendingCreate && e.vm.Pending.Kind != pendingClone)
}

// Machine returns the running machine of a VM.
func (i *Inventory) Machine(ref string) (Machine, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	e, ok := i.entries[ref]
	switch {
	case !ok || !e.visible():
		return nil, &NotFoundError{Ref: ref}
	case e.machine == nil:
		return nil, &StateError{Name: e.vm.Name, Current: e.vm.Power, Required: PoweredOn}
	}
	return e.machine, nil
}

// Live returns the machine of a VM whose guest runs.
func (i *Inventory) Live(ref string) (Machine, error) {
	m, err := i.Machine(ref)
	if err != nil {
		return nil, err
	}
	if v, ok := i.Get(ref); ok && v.Frozen {
		return nil, &FrozenError{Name: v.Name}
	}
	return m, nil
}

// Describe says what accelerates the machines and why.
func (i *Inventory) Describe() string { return i.opt.Hypervisor.Describe() }

// HostMemoryMiB returns the host's memory in MiB.
func (i *Inventory) HostMemoryMiB() int64 { return i.opt.HostMemoryMiB }

// HostCPUs returns the number of the host's CPUs.
func (i *Inventory) HostCPUs() int { return i.opt.HostCPUs }

// WaitRun waits until a run later than the last one has begun and returns its machine, or nil if it has ended again already.
func (i *Inventory) WaitRun(ctx context.Context, ref string, last hostapi.Run) (Machine, error) {
	for {
		changed := i.signal.Changed()
		v, ok := i.Get(ref)
		if !ok {
			return nil, &NotFoundError{Ref: ref}
		}
		if m, err := i.Machine(ref); err == nil {
			return m, nil
		}
		if v.Run > last && v.Pending == nil {
			return nil, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// acquire makes the caller the only one who operates on the VM, until it calls release.
func (i *Inventory) acquire(ctx context.Context, ref string) (e *entry, release func(), err error) {
	i.mu.Lock()
	e, ok := i.entries[ref]
	i.mu.Unlock()
	if !ok {
		return nil, nil, &NotFoundError{Ref: ref}
	}
	done := i.under()
	select {
	case e.busy <- struct{}{}:
	case <-ctx.Done():
		done()
		return nil, nil, fmt.Errorf("cannot begin: another operation on the VM is under way: %w", ctx.Err())
	}
	release = func() { <-e.busy; done() }
	if _, ok := i.Get(ref); !ok { // destroyed by the operation before
		release()
		return nil, nil, &NotFoundError{Ref: ref}
	}
	return e, release, nil
}

func newEntry(v *VM) *entry { return &entry{busy: make(chan struct{}, 1), vm: v} }

// snapshot returns the VM's present state.
func (i *Inventory) snapshot(e *entry) *VM {
	i.mu.Lock()
	defer i.mu.Unlock()
	return e.vm
}

// durability says what a change must survive before it is published.
type durability int

const (
	inMemory  durability = iota // the change comes again by itself: from the guest, at adoption
	noted                       // the death of this process
	journaled                   // the death of the host
)

// change makes, journals and publishes the next state of a VM. edit changes a copy.
func (i *Inventory) change(e *entry, d durability, edit func(*VM)) error {
	e.write.Lock()
	defer e.write.Unlock()
	next := i.snapshot(e).clone()
	edit(next)
	if err := i.record(d, next); err != nil {
		return err
	}
	i.publish(func() { e.vm = next })
	return nil
}

func (i *Inventory) record(d durability, v *VM) error {
	if d == inMemory {
		return nil
	}
	doc, err := journal.Put(vmKey(v.Ref), v)
	if err != nil {
		return err
	}
	if d == noted {
		return i.opt.Journal.Note(doc)
	}
	return i.opt.Journal.Append(doc)
}

// publish changes what is guarded by mu and wakes the waiters.
func (i *Inventory) publish(edit func()) {
	i.mu.Lock()
	edit()
	i.mu.Unlock()
	i.signal.Wake()
}

// vmKey is a VM's key in the journal.
func vmKey(ref string) string { return "vm/" + ref }

func (i *Inventory) runDir(ref string) string { return filepath.Join(i.opt.RunDir, ref) }

// Close lets go of all machines without ending them; their VMs are as they were when the inventory is opened again.
func (i *Inventory) Close() error {
	i.mu.Lock()
	i.closing = true
	var machines []Machine
	var waiting []*prepared
	for _, sh := range i.stock.shelves {
		waiting = append(waiting, sh.ready...)
		sh.ready = nil
	}
	for _, e := range i.entries {
		if e.machine != nil {
			machines = append(machines, e.machine)
		}
	}
	i.mu.Unlock()
	i.stop()
	i.keeping.Wait()
	i.discard(waiting...)
	var first error
	for _, m := range machines {
		if err := m.Close(); err != nil && first == nil {
			first = fmt.Errorf("cannot let go of a machine: %w", err)
		}
	}
	i.ops.Wait()
	return first
}
