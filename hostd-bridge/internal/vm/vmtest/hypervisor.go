// Package vmtest is a hypervisor in memory: its machines are scripts. Machines live as long as the Hypervisor does, so
// a test can close an inventory, or abandon it as a killed daemon would, and open it again on the same machines.
package vmtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
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

// Hypervisor implements vm.Hypervisor and vm.Disks.
type Hypervisor struct {
	guest Guest

	mu       sync.Mutex
	machines map[string]*Machine // by run directory
	fail     error
}

// New returns a hypervisor whose machines run guest.
func New(guest Guest) *Hypervisor {
	return &Hypervisor{guest: guest, machines: map[string]*Machine{}}
}

// FailStart makes every later Start fail with err; nil lets them succeed again.
func (h *Hypervisor) FailStart(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fail = err
}

// Describe implements vm.Hypervisor.
func (h *Hypervisor) Describe() string { return "in memory, for tests" }

// Start implements vm.Hypervisor.
func (h *Hypervisor) Start(_ context.Context, spec vm.MachineSpec) (vm.Machine, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail != nil {
		return nil, h.fail
	}
	if old := h.machines[spec.RunDir]; old != nil && old.Exit() == nil {
		return nil, errors.New("a machine runs in " + spec.RunDir)
	}
	m := &Machine{Spec: spec, signal: &vm.Signal{}, readable: maps.Clone(spec.Guestinfo), set: map[string]string{}, disk: spec.RootDisk}
	if m.readable == nil {
		m.readable = map[string]string{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	h.machines[spec.RunDir] = m
	go func() {
		h.guest(ctx, m)
		m.end(ctx.Err() == nil)
	}()
	return newHandle(m), nil
}

// Prepare implements vm.Hypervisor.
func (h *Hypervisor) Prepare(context.Context, vm.Template, vm.ChildSpec) (vm.Child, error) {
	return nil, errors.ErrUnsupported
}

// Adopt implements vm.Hypervisor.
func (h *Hypervisor) Adopt(_ context.Context, runDir string) (vm.Machine, *vm.Exit, error) {
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

// CreateDisk implements vm.Disks: the file holds the parent's path.
func (h *Hypervisor) CreateDisk(_ context.Context, path, parent string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, parent)
	return errors.Join(err, f.Close())
}

// Machine is a machine in memory, seen from the guest's side.
type Machine struct {
	Spec   vm.MachineSpec
	signal *vm.Signal
	cancel context.CancelFunc

	mu       sync.Mutex
	readable map[string]string
	set      map[string]string
	events   []vm.Event // all that happened
	exit     *vm.Exit
	disk     string
	paused   bool
	resets   int
	listen   map[uint32]func(net.Conn)
}

// Set sets a guestinfo key, as the guest does by info-set.
func (m *Machine) Set(key, value string) {
	m.edit(func() {
		m.set[key] = value
		m.events = append(m.events, vm.Event{Guestinfo: &vm.Guestinfo{Key: key, Value: value}})
	})
}

// Get reads a guestinfo key, as the guest does by info-get.
func (m *Machine) Get(key string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.readable[key]
}

// Log appends to the machine's log file.
func (m *Machine) Log(data []byte) error {
	f, err := os.OpenFile(filepath.Join(m.Spec.HomeDir, "stdio.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	m.signal.Wake()
	return errors.Join(err, f.Close())
}

// Listen serves a vsock port; serve owns the connection.
func (m *Machine) Listen(port uint32, serve func(net.Conn)) {
	m.edit(func() {
		if m.listen == nil {
			m.listen = map[uint32]func(net.Conn){}
		}
		m.listen[port] = serve
	})
}

// Disk returns the path of the disk in the root slot, or "".
func (m *Machine) Disk() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.disk
}

// Resets returns how often the machine was reset.
func (m *Machine) Resets() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.resets
}

// Exit returns how the machine ended, or nil while it runs.
func (m *Machine) Exit() *vm.Exit {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.exit
}

func (m *Machine) edit(change func()) {
	m.mu.Lock()
	change()
	m.mu.Unlock()
	m.signal.Wake()
}

func (m *Machine) end(orderly bool) {
	m.edit(func() {
		reason := "killed"
		if orderly {
			reason = "the guest powered itself off"
		}
		m.exit = &vm.Exit{At: time.Now().UTC(), Orderly: orderly, Reason: reason, Guestinfo: maps.Clone(m.set)}
		m.events = append(m.events, vm.Event{Exit: m.exit})
	})
}
