package inventory

import (
	"context"
	"fmt"
	"sync"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/journal"
)

// Entry is a VM's place in the inventory.
type Entry struct {
	inv       *Inventory
	operation chan struct{} // holds one token while an operation on the VM is in flight
	commit    sync.Mutex    // see Lock order
	removed   bool          // guarded by commit: nothing is recorded of the VM any more

	// guarded by Inventory.mu
	vm      *vm.VM
	claimed vm.Config     // what Claim was given for the operation in flight
	machine vm.Machine    // nil when the VM is off
	ended   chan struct{} // closed when the end of machine is published
}

// Durability says what a record survives.
type Durability int

const (
	InMemory Durability = iota // there is no record: the change comes again by itself
	Written                    // this process
	Synced                     // the host
)

func (i *Inventory) newEntry(v *vm.VM) *Entry {
	return &Entry{inv: i, operation: make(chan struct{}, 1), vm: v}
}

// Acquire makes the caller the only one who operates on the VM, until it calls release.
func (i *Inventory) Acquire(ctx context.Context, ref string) (e *Entry, release func(), err error) {
	i.mu.Lock()
	e, ok := i.entries[ref]
	i.mu.Unlock()
	if !ok {
		return nil, nil, &vm.NotFoundError{Ref: ref}
	}
	end := i.begin()
	select {
	case e.operation <- struct{}{}:
	case <-ctx.Done():
		end()
		return nil, nil, fmt.Errorf("cannot begin: another operation on the VM is in flight: %w", ctx.Err())
	}
	release = e.releaser(end)
	if _, ok := i.Get(ref); !ok { // destroyed by the operation before
		release()
		return nil, nil, &vm.NotFoundError{Ref: ref}
	}
	return e, release, nil
}

// releaser returns the function that ends the operation that is counted until end is called. Calls after the first do nothing.
func (e *Entry) releaser(end func()) func() {
	return sync.OnceFunc(func() {
		e.inv.mu.Lock()
		e.claimed = vm.Config{}
		e.inv.mu.Unlock()
		<-e.operation
		end()
	})
}

// VM returns the VM's present state.
func (e *Entry) VM() *vm.VM {
	e.inv.mu.Lock()
	defer e.inv.mu.Unlock()
	return e.vm
}

// Machine returns the VM's machine, nil when it is off, and a channel that is closed when its end is published.
func (e *Entry) Machine() (m vm.Machine, ended <-chan struct{}) {
	e.inv.mu.Lock()
	defer e.inv.mu.Unlock()
	return e.machine, e.ended
}

// Change records and publishes the VM's next state. edit changes a copy of the present one.
func (e *Entry) Change(d Durability, edit func(*vm.VM)) error {
	return e.change(d, edit, func(next *vm.VM) { e.vm = next })
}

// Began is a Change after which the VM runs as the machine m.
func (e *Entry) Began(d Durability, m vm.Machine, edit func(*vm.VM)) error {
	return e.change(d, edit, func(next *vm.VM) { e.vm, e.machine, e.ended = next, m, make(chan struct{}) })
}

// change is a Change that publish publishes.
func (e *Entry) change(d Durability, edit, publish func(*vm.VM)) error {
	e.commit.Lock()
	defer e.commit.Unlock()
	next := e.VM().Copy()
	if e.removed {
		return &vm.NotFoundError{Ref: next.Ref}
	}
	edit(next)
	if err := e.inv.record(d, next); err != nil {
		return err
	}
	e.inv.publish(func() { publish(next) })
	return nil
}

// Annotate is a Change in memory that wakes nobody: whoever asks, or waits for another change, sees it then. edit says whether
// there is a change.
func (e *Entry) Annotate(edit func(*vm.VM) bool) {
	e.commit.Lock()
	defer e.commit.Unlock()
	next := e.VM().Copy()
	if !edit(next) {
		return
	}
	e.inv.mu.Lock()
	defer e.inv.mu.Unlock()
	e.vm = next
}

// Ended is a synced Change after which the VM has no machine. It is published also when the journal fails, since the machine is
// gone. cleanUp runs before it is published: until then nobody begins the next run.
func (e *Entry) Ended(edit func(*vm.VM), cleanUp func(next *vm.VM)) error {
	e.commit.Lock()
	defer e.commit.Unlock()
	next := e.VM().Copy()
	edit(next)
	err := e.inv.record(Synced, next)
	cleanUp(next)
	e.inv.publish(func() {
		e.vm, e.machine = next, nil
		if e.ended != nil { // nil: it had no machine
			close(e.ended)
			e.ended = nil
		}
	})
	return err
}

// Remove takes the VM out of the inventory.
func (e *Entry) Remove() error {
	e.commit.Lock()
	defer e.commit.Unlock()
	ref := e.VM().Ref
	if err := e.inv.journal.Commit(journal.Delete(vmKey(ref))); err != nil {
		return err
	}
	e.removed = true
	e.inv.publish(func() { delete(e.inv.entries, ref) })
	return nil
}

func (i *Inventory) record(d Durability, v *vm.VM) error {
	if d == InMemory {
		return nil
	}
	doc, err := journal.Put(vmKey(v.Ref), v)
	if err != nil {
		return err
	}
	if d == Written {
		return i.journal.Write(doc)
	}
	return i.journal.Commit(doc)
}
