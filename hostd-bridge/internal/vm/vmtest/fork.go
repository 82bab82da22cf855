package vmtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// Freeze stops the machine for good, as the guest does by instantclone.freeze. It returns when the machine is killed: the
// guest should then return too. A child's guest begins anew, with Parent not nil.
func (m *Machine) Freeze(ctx context.Context) {
	m.edit(func() {
		m.frozen = true
		m.events = append(m.events, vm.Event{Frozen: true})
	})
	<-ctx.Done()
}

// Parent is the machine that this one was forked from, nil for one that was booted.
func (m *Machine) Parent() *Machine { return m.parent }

// Remember keeps a value in the machine's memory, which its forks inherit.
func (m *Machine) Remember(value any) { m.edit(func() { m.memory = value }) }

// Memory is the value that was remembered last, here or in the machine that this one is a fork of; nil when there is none.
func (m *Machine) Memory() any {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.memory
}

// Mark sets a point of the host's timeline.
func (m *Machine) Mark(name string) {
	m.edit(func() { m.events = append(m.events, vm.Event{Mark: &hostapi.Mark{Name: name, At: time.Now().UTC()}}) })
}

// Wait waits until a guestinfo key has a value, as the guest does by cvm.wait; it returns "" when ctx ends.
func (m *Machine) Wait(ctx context.Context, key string) string {
	for {
		changed := m.signal.Changed()
		if value := m.Get(key); value != "" {
			return value
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ""
		}
	}
}

// Open is the number of templates and prepared children that nobody has closed.
func (h *Hypervisor) Open() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.open
}

// Prepared is the number of children that were ever prepared.
func (h *Hypervisor) Prepared() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.prepared
}

// AwaitPrepared waits until n children have been prepared since the beginning.
func (h *Hypervisor) AwaitPrepared(ctx context.Context, n int) error {
	for {
		changed := h.changed.Changed()
		if h.Prepared() >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// held counts something as open until the function that it returns is called.
func (h *Hypervisor) held() (release func()) {
	h.count(1)
	return sync.OnceFunc(func() { h.count(-1) })
}

func (h *Hypervisor) count(by int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open += by
}

// template implements vm.Template: a machine stands for its memory.
type template struct {
	of      *Machine
	release func()

	mu     sync.Mutex
	closed bool
}

func (t *template) MemoryMiB() int   { return t.of.Spec.MemoryMiB }
func (t *template) ResidentMiB() int { return 1 }

// Close implements vm.Template.
func (t *template) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errors.New("the template is closed twice")
	}
	t.closed = true
	t.release()
	return nil
}

func (t *template) usable() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errors.New("the template is closed")
	}
	return nil
}

// Template implements vm.Machine.
func (h *handle) Template(context.Context) (vm.Template, error) {
	if err := h.m.hv.at(Template); err != nil {
		return nil, err
	}
	h.m.mu.Lock()
	frozen, exit := h.m.frozen, h.m.exit
	h.m.mu.Unlock()
	if !frozen || exit != nil {
		return nil, errors.New("the machine is not frozen")
	}
	return &template{of: h.m, release: h.m.hv.held()}, nil
}

// What a machine in memory is said to take, in KiB.
const (
	TemplateKiB = 40 << 10 // the memory of a frozen machine
	BootedKiB   = 60 << 10 // the guest's memory of a machine that was booted
	ChildKiB    = 2<<10 + 1
	OverheadKiB = 20 << 10
)

// Memory implements vm.Machine.
func (h *handle) Memory(context.Context) (hostapi.Memory, error) {
	if err := h.m.hv.at(Measure); err != nil {
		return hostapi.Memory{}, err
	}
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	switch {
	case h.m.frozen:
		return hostapi.Memory{SharedKiB: TemplateKiB}, nil
	case h.m.parent != nil:
		return hostapi.Memory{SharedKiB: TemplateKiB, GuestPrivateKiB: ChildKiB, OverheadKiB: OverheadKiB}, nil
	default:
		return hostapi.Memory{GuestPrivateKiB: BootedKiB, OverheadKiB: OverheadKiB}, nil
	}
}

// Snapshot implements vm.Machine.
func (h *handle) Snapshot(_ context.Context, newDisk string) (vm.Template, error) {
	if err := h.m.hv.at(Snapshot); err != nil {
		return nil, err
	}
	err := errors.New("the machine does not run")
	h.m.edit(func() {
		if h.m.exit == nil && !h.m.frozen {
			h.m.disk, err = newDisk, nil
		}
	})
	if err != nil {
		return nil, err
	}
	return &template{of: h.m, release: h.m.hv.held()}, nil
}

// child implements vm.Child.
type child struct {
	hv      *Hypervisor
	of      *Machine
	spec    vm.ChildSpec
	release func()
}

// Prepare implements vm.Hypervisor.
func (h *Hypervisor) Prepare(ctx context.Context, t vm.Template, spec vm.ChildSpec) (vm.Child, error) {
	if err := errors.Join(h.at(Prepare), ctx.Err(), t.(*template).usable()); err != nil {
		return nil, err
	}
	h.mu.Lock()
	h.prepared++
	h.mu.Unlock()
	defer h.changed.Wake()
	return &child{hv: h, of: t.(*template).of, spec: spec, release: h.held()}, nil
}

// Start implements vm.Child.
func (c *child) Start(_ context.Context, spec vm.MachineSpec) (vm.Machine, error) {
	defer c.release()
	if err := c.hv.at(Fork); err != nil {
		return nil, err
	}
	if spec.CID != c.spec.CID || len(spec.NICs) != c.spec.NICs || spec.MemoryMiB != c.of.Spec.MemoryMiB {
		return nil, fmt.Errorf("the child was prepared as %+v and cannot be %+v", c.spec, spec)
	}
	if err := unix.Rename(c.spec.RunDir, spec.RunDir); err != nil { // os.Rename refuses a directory that is there
		return nil, fmt.Errorf("cannot move the child's directory: %w", err)
	}
	return c.hv.run(spec, c.of)
}

// Close implements vm.Child.
func (c *child) Close() error {
	c.release()
	return nil
}
