package vmtest

import (
	"context"
	"errors"
	"maps"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// Machine is a machine in memory, seen from the guest's side.
type Machine struct {
	Spec   vm.MachineSpec
	hv     *Hypervisor
	parent *Machine
	signal *vm.Signal
	cancel context.CancelFunc

	mu       sync.Mutex
	readable map[string]string
	set      map[string]string
	events   []vm.Event // all that happened
	exit     *vm.Exit
	disk     string
	log      hostapi.Log
	data     map[int]vm.DataDisk // by unit
	nics     map[int]vm.NIC      // by slot
	limit    float64             // of CPU time
	frozen   bool
	memory   any // what the guest keeps in mind
	resets   int
	listen   map[uint32]func(net.Conn)
}

func newMachine(h *Hypervisor, spec vm.MachineSpec, parent *Machine) *Machine {
	m := &Machine{
		Spec: spec, hv: h, parent: parent, signal: &vm.Signal{},
		readable: maps.Clone(spec.Guestinfo), set: map[string]string{}, disk: spec.RootDisk, limit: spec.CPULimit, log: spec.Log,
	}
	m.data, m.nics = map[int]vm.DataDisk{}, map[int]vm.NIC{}
	for _, d := range spec.DataDisks {
		m.data[d.Unit] = d
	}
	for slot, nic := range spec.NICs {
		m.nics[slot] = nic
	}
	if m.readable == nil {
		m.readable = map[string]string{}
	}
	if parent != nil {
		m.memory = parent.Memory()
	}
	return m
}

// Limits are those of the machine's log.
func (m *Machine) Limits() hostapi.Log {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.log
}

// CPULimit is that of the machine's CPU time, in CPUs; 0: none.
func (m *Machine) CPULimit() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.limit
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
	f, err := os.OpenFile(filepath.Join(m.Spec.HomeDir, hostapi.LogFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
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

// Kill ends the machine, as when its QEMU is killed, and does not wait for that.
func (m *Machine) Kill() { m.cancel() }

// Disk returns the path of the disk in the root slot, or "".
func (m *Machine) Disk() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.disk
}

// DataDisks returns the disks beside the root disk, by unit.
func (m *Machine) DataDisks() map[int]vm.DataDisk {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.data)
}

// NICs returns the network cards by slot.
func (m *Machine) NICs() map[int]vm.NIC {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.nics)
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
