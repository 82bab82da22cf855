package vsphere

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
)

// PowerState is vSphere's VirtualMachinePowerState.
type PowerState string

// The power states of a VM.
const (
	PoweredOff PowerState = "poweredOff"
	PoweredOn  PowerState = "poweredOn"
	Suspended  PowerState = "suspended"
)

// VM is what the host has said last about a virtual machine. Extra must not be changed.
type VM struct {
	Ref        Ref
	Name       string
	UUID       string // BIOS UUID
	PowerState PowerState
	Frozen     bool // stands still for ever at its fork point; its power state is poweredOn
	CPUs       int
	MemoryMiB  int
	Extra      map[string]string // extraConfig
}

// VMEvent is a change of one VM: Before is nil when it has appeared, After when it is gone.
type VMEvent struct {
	Before, After *VM
	Seq           uint64 // its number, from 1
}

// inventory is the picture of the host's VMs, and of its latest tasks, that the watch keeps.
type inventory struct {
	mu      sync.Mutex
	vms     map[Ref]*VM
	tasks   map[Ref]taskInfo
	changed chan struct{} // closed and replaced at each change
	subs    map[*subscription]struct{}
	seq     uint64 // of the last change of a VM
}

func newInventory() *inventory {
	return &inventory{vms: map[Ref]*VM{}, tasks: map[Ref]taskInfo{}, changed: make(chan struct{}), subs: map[*subscription]struct{}{}}
}

// VMs returns all VMs, ordered by name.
func (i *inventory) VMs() []VM {
	i.mu.Lock()
	all := make([]VM, 0, len(i.vms))
	for _, vm := range i.vms {
		all = append(all, *vm)
	}
	i.mu.Unlock()
	slices.SortFunc(all, func(a, b VM) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Get returns the VM with a name.
func (i *inventory) Get(name string) (VM, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, vm := range i.vms {
		if vm.Name == name {
			return *vm, true
		}
	}
	return VM{}, false
}

// Wait blocks until the VM satisfies until, which is called with the inventory locked and must not block. The error
// wraps errdefs.ErrNotFound when the VM does not exist or goes away.
func (i *inventory) Wait(ctx context.Context, vm Ref, until func(VM) bool) (VM, error) {
	for {
		i.mu.Lock()
		now, ok := i.vms[vm]
		changed := i.changed
		done := ok && until(*now)
		i.mu.Unlock()
		switch {
		case !ok:
			return VM{}, fmt.Errorf("VM %s is gone: %w", vm.Value, errdefs.ErrNotFound)
		case done:
			return *now, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return *now, ctx.Err()
		}
	}
}

// await blocks until done, which is called with the inventory locked and must not block.
func (i *inventory) await(ctx context.Context, done func() bool) error {
	for {
		i.mu.Lock()
		changed, ok := i.changed, done()
		i.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Subscribe yields every change from now on, in order, until ctx ends; then the channel is closed. A slow reader holds
// nobody up: events wait in memory.
func (i *inventory) Subscribe(ctx context.Context) <-chan VMEvent {
	s := &subscription{wake: make(chan struct{}, 1)}
	i.mu.Lock()
	i.subs[s] = struct{}{}
	i.mu.Unlock()
	out := make(chan VMEvent)
	go func() {
		defer close(out)
		defer func() {
			i.mu.Lock()
			delete(i.subs, s)
			i.mu.Unlock()
		}()
		s.deliver(ctx, out)
	}()
	return out
}

// Seq is the number of the last change of a VM: what has been seen of VMs until now is told to subscribers by events of at most this number.
func (i *inventory) Seq() uint64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.seq
}

// publish applies one change and tells everyone. after nil removes the VM.
func (i *inventory) publish(ref Ref, after *VM) {
	i.mu.Lock()
	defer i.mu.Unlock()
	before := i.vms[ref]
	if after == nil {
		delete(i.vms, ref)
	} else {
		i.vms[ref] = after
	}
	if before == nil && after == nil {
		return
	}
	i.seq++
	i.wake()
	for s := range i.subs {
		s.push(VMEvent{Before: before, After: after, Seq: i.seq})
	}
}

// wake tells those who await something; the caller holds mu.
func (i *inventory) wake() {
	close(i.changed)
	i.changed = make(chan struct{})
}

// subscription is one reader's queue.
type subscription struct {
	mu    sync.Mutex
	queue []VMEvent
	wake  chan struct{} // holds a token while the queue may be non-empty
}

func (s *subscription) push(e VMEvent) {
	s.mu.Lock()
	s.queue = append(s.queue, e)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *subscription) deliver(ctx context.Context, out chan<- VMEvent) {
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		batch := s.queue
		s.queue = nil
		s.mu.Unlock()
		for _, e := range batch {
			select {
			case out <- e:
			case <-ctx.Done():
				return
			}
		}
	}
}
