// Package vmtest is a hypervisor in memory: its machines are scripts. Machines live as long as the Hypervisor does, so
// a test can close an inventory, or abandon it as a killed daemon would, and open it again on the same machines.
package vmtest

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"time"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// Guest plays a machine's guest. It returns when the guest powers itself off, and should when ctx ends: then the machine
// was killed.
type Guest func(ctx context.Context, m *Machine)

// Idle is a guest that does nothing until it is killed.
func Idle(ctx context.Context, _ *Machine) { <-ctx.Done() }

// Stage is a step of a hypervisor's that a test can hook into with On.
type Stage string

// The stages: Start, Machine.ForkPoint, Machine.Snapshot, Prestart, Prestarted.Start, Machine.SetGuestinfo, Machine.Memory,
// Machine.PlugDisk and Machine.UnplugDisk; StartSwitch, Switch.Apply
// Machine.SetNIC, Machine.LimitCPUs and Machine.SetLog.
const (
	Start     Stage = "start"
	ForkPoint Stage = "forkPoint"
	Snapshot  Stage = "snapshot"
	Prestart  Stage = "prestart"
	Fork      Stage = "fork"
	Tell      Stage = "tell"
	Measure   Stage = "measure"

	StartSwitch Stage = "startSwitch"
	Apply       Stage = "apply"
	SetNIC      Stage = "setNIC"
	LimitCPUs   Stage = "limitCPUs"
	SetLog      Stage = "setLog"
	Plug        Stage = "plug"
	Unplug      Stage = "unplug"
)

// Hypervisor implements vm.Hypervisor, vm.Disks and vm.Switches.
type Hypervisor struct {
	guest Guest

	mu         sync.Mutex
	machines   map[string]*Machine // by run directory
	hooks      map[Stage]func() error
	open       int // fork points and prestarted machines that nobody has closed
	prestarted int // Prestart calls that succeeded
	changed    *vm.Signal
	switches   switches
}

// New returns a hypervisor whose machines run guest.
func New(guest Guest) *Hypervisor {
	return &Hypervisor{guest: guest, machines: map[string]*Machine{}, hooks: map[Stage]func() error{}, changed: &vm.Signal{},
		switches: switches{byDir: map[string]*Switch{}, taken: map[string]string{}}}
}

// On has hook run at every later beginning of a stage, which fails with its error; nil removes it.
func (h *Hypervisor) On(s Stage, hook func() error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hooks[s] = hook
}

func (h *Hypervisor) at(s Stage) error {
	h.mu.Lock()
	hook := h.hooks[s]
	h.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook()
}

// FailStart makes every later Start fail with err; nil lets them succeed again.
func (h *Hypervisor) FailStart(err error) {
	if err == nil {
		h.On(Start, nil)
		return
	}
	h.On(Start, func() error { return err })
}

// LimitsCPUs implements vm.Hypervisor.
func (h *Hypervisor) LimitsCPUs() error { return nil }

// Isolation implements vm.Hypervisor.
func (h *Hypervisor) Isolation() (string, []string) {
	return "none", []string{"machines are in memory"}
}

// Describe implements vm.Hypervisor.
func (h *Hypervisor) Describe() string { return "in memory, for tests" }

// Start implements vm.Hypervisor.
func (h *Hypervisor) Start(_ context.Context, spec vm.MachineSpec) (vm.Machine, error) {
	if err := h.at(Start); err != nil {
		return nil, err
	}
	return h.run(spec, nil)
}

// run starts a machine; parent is nil for one that is booted.
func (h *Hypervisor) run(spec vm.MachineSpec, parent *Machine) (vm.Machine, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.machines[spec.RunDir]; old != nil && old.Exit() == nil {
		return nil, errors.New("a machine runs in " + spec.RunDir)
	}
	m := newMachine(h, spec, parent)
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	h.machines[spec.RunDir] = m
	m.Mark("resumed")
	go func() {
		h.guest(ctx, m)
		m.end(ctx.Err() == nil)
	}()
	return newHandle(m), nil
}

// Adopt implements vm.Hypervisor.
func (h *Hypervisor) Adopt(_ context.Context, _, runDir string) (vm.Machine, *vm.Exit, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.machines[runDir]
	if m == nil {
		return nil, &vm.Exit{At: time.Now(), Reason: "no trace of a machine in " + runDir}, nil
	}
	if exit := m.Exit(); exit != nil {
		return nil, exit, nil
	}
	return newHandle(m), nil, nil
}

// Machine returns the machine with a moref value; nil when it never ran.
func (h *Hypervisor) Machine(ref string) *Machine {
	h.mu.Lock()
	defer h.mu.Unlock()
	for dir, m := range h.machines {
		if filepath.Base(dir) == ref {
			return m
		}
	}
	return nil
}

// KillAll ends every machine.
func (h *Hypervisor) KillAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.machines {
		m.Kill()
	}
}
