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

// Open is the number of fork points and prestarted machines that nobody has closed.
func (h *Hypervisor) Open() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.open
}

// Prestarted is the number of machines that were ever prestarted.
func (h *Hypervisor) Prestarted() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.prestarted
}

// AwaitPrestarted waits until n machines have been prestarted since the beginning.
func (h *Hypervisor) AwaitPrestarted(ctx context.Context, n int) error {
	for {
		changed := h.changed.Changed()
		if h.Prestarted() >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// opened counts something as open until the function that it returns is called.
func (h *Hypervisor) opened() (release func()) {
	h.count(1)
	return sync.OnceFunc(func() { h.count(-1) })
}

func (h *Hypervisor) count(by int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open += by
}

// forkPoint implements vm.ForkPoint: a machine stands for its memory.
type forkPoint struct {
	of      *Machine
	release func()

	mu     sync.Mutex
	closed bool
}

func (t *forkPoint) MemoryMiB() int   { return t.of.Spec.MemoryMiB }
func (t *forkPoint) ResidentMiB() int { return 1 }

// Close implements vm.ForkPoint.
func (t *forkPoint) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errors.New("the fork point is closed twice")
	}
	t.closed = true
	t.release()
	return nil
}

func (t *forkPoint) usable() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errors.New("the fork point is closed")
	}
	return nil
}

// ForkPoint implements vm.Machine.
func (h *handle) ForkPoint(context.Context) (vm.ForkPoint, error) {
	if err := h.m.hv.at(ForkPoint); err != nil {
		return nil, err
	}
	h.m.mu.Lock()
	frozen, exit := h.m.frozen, h.m.exit
	h.m.mu.Unlock()
	if !frozen || exit != nil {
		return nil, errors.New("the machine is not frozen")
	}
	return &forkPoint{of: h.m, release: h.m.hv.opened()}, nil
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
func (h *handle) Snapshot(_ context.Context, to vm.NewDisks) (vm.ForkPoint, error) {
	if err := h.m.hv.at(Snapshot); err != nil {
		return nil, err
	}
	err := errors.New("the machine does not run")
	h.m.edit(func() {
		if h.m.exit == nil && !h.m.frozen {
			h.m.disk, err = to.Root, nil
			for unit, path := range to.Data {
				d := h.m.data[unit]
				d.Path = path
				h.m.data[unit] = d
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return &forkPoint{of: h.m, release: h.m.hv.opened()}, nil
}

// prestarted implements vm.Prestarted.
type prestarted struct {
	hv      *Hypervisor
	of      *Machine
	spec    vm.PrestartSpec
	release func()
}

// Prestart implements vm.Hypervisor.
func (h *Hypervisor) Prestart(ctx context.Context, t vm.ForkPoint, spec vm.PrestartSpec) (vm.Prestarted, error) {
	if err := h.at(Prestart); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := t.(*forkPoint).usable(); err != nil {
		return nil, err
	}
	h.mu.Lock()
	h.prestarted++
	h.mu.Unlock()
	defer h.changed.Wake()
	return &prestarted{hv: h, of: t.(*forkPoint).of, spec: spec, release: h.opened()}, nil
}

// Start implements vm.Prestarted.
func (c *prestarted) Start(_ context.Context, spec vm.MachineSpec) (vm.Machine, error) {
	defer c.release()
	if err := c.hv.at(Fork); err != nil {
		return nil, err
	}
	if spec.CID != c.spec.CID || spec.MemoryMiB != c.of.Spec.MemoryMiB {
		return nil, fmt.Errorf("the machine was prestarted as %+v and cannot be %+v", c.spec, spec)
	}
	if err := unix.Rename(c.spec.RunDir, spec.RunDir); err != nil { // os.Rename refuses a directory that is there
		return nil, fmt.Errorf("cannot move the machine's directory: %w", err)
	}
	return c.hv.run(spec, c.of)
}

// Close implements vm.Prestarted.
func (c *prestarted) Close() error {
	c.release()
	return nil
}
