package vmhost_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vmlog"
)

// fileHypervisor is a vm.Hypervisor whose machines are files, so that they outlive the process: the file "machine" in
// the run directory stands for a supervisor, and holds what is in the root slot; "data-<unit>" holds what is at a unit.
type fileHypervisor struct{}

func (fileHypervisor) Isolation() (string, []string) { return "none", nil }

func (fileHypervisor) Describe() string { return "files, for tests" }

// freezes is the guestinfo that makes a machine freeze as soon as it boots.
const freezes = "guestinfo.freezes"

func (fileHypervisor) LimitsCPUs() error { return nil }

func (m *fileMachine) LimitCPUs(context.Context, float64) error { return nil }

func (fileHypervisor) Start(_ context.Context, spec vm.MachineSpec) (vm.Machine, error) {
	m := newFileMachine(spec.RunDir)
	if err := m.begin(spec); err != nil {
		return nil, err
	}
	if spec.Guestinfo[freezes] == "" {
		return m, nil
	}
	return m, m.freeze()
}

func (fileHypervisor) Adopt(_ context.Context, _, runDir string) (vm.Machine, *vm.Exit, error) {
	m := newFileMachine(runDir)
	if _, err := os.Stat(m.path); err != nil {
		return nil, &vm.Exit{At: time.Now(), Reason: "no trace of a machine"}, nil
	}
	if _, err := os.Stat(m.frozen()); err == nil {
		return m, nil, m.freeze()
	}
	return m, nil, nil
}

func (fileHypervisor) Prestart(_ context.Context, _ vm.ForkPoint, spec vm.PrestartSpec) (vm.Prestarted, error) {
	c := filePrestarted(spec.RunDir)
	return c, os.WriteFile(filepath.Join(string(c), "prestarted"), nil, 0o600)
}

// filePrestarted is a prestarted machine, by its directory.
type filePrestarted string

func (c filePrestarted) Close() error { return nil }

func (c filePrestarted) Start(_ context.Context, spec vm.MachineSpec) (vm.Machine, error) {
	if err := unix.Rename(string(c), spec.RunDir); err != nil {
		return nil, err
	}
	m := newFileMachine(spec.RunDir)
	return m, m.begin(spec)
}

// fileForkPoint is all that is needed of a fork point here.
type fileForkPoint struct{}

func (fileForkPoint) MemoryMiB() int   { return 100 }
func (fileForkPoint) ResidentMiB() int { return 1 }
func (fileForkPoint) Close() error     { return nil }

type fileMachine struct {
	path   string
	events chan vm.Event
	once   sync.Once
}

func newFileMachine(runDir string) *fileMachine {
	return &fileMachine{path: filepath.Join(runDir, "machine"), events: make(chan vm.Event, 2)}
}

func (m *fileMachine) frozen() string { return filepath.Join(filepath.Dir(m.path), "frozen") }

func (m *fileMachine) freeze() error {
	m.events <- vm.Event{Frozen: true}
	return os.WriteFile(m.frozen(), nil, 0o600)
}

func (m *fileMachine) Events() <-chan vm.Event { return m.events }

func (m *fileMachine) AttachDisk(_ context.Context, path, _ string) error {
	if held, err := os.ReadFile(m.path); err != nil || len(held) > 0 {
		return fmt.Errorf("the slot holds %q, %w", held, err)
	}
	return os.WriteFile(m.path, []byte(path), 0o600)
}

func (m *fileMachine) DetachDisk(context.Context) error { return os.WriteFile(m.path, nil, 0o600) }

func (m *fileMachine) Kill(context.Context) error {
	if err := os.Remove(m.path); err != nil {
		return err
	}
	m.events <- vm.Event{Exit: &vm.Exit{At: time.Now(), Reason: "killed"}}
	return m.Close()
}

func (m *fileMachine) Close() error {
	m.once.Do(func() { close(m.events) })
	return nil
}

func (m *fileMachine) SetGuestinfo(context.Context, map[string]string) error { return nil }
func (m *fileMachine) SetNIC(context.Context, int, vm.NIC) error             { return nil }
func (m *fileMachine) Pause(context.Context) error                           { return nil }
func (m *fileMachine) Resume(context.Context) error                          { return nil }
func (m *fileMachine) Reset(context.Context) error                           { return nil }
func (m *fileMachine) Memory(context.Context) (hostapi.Memory, error)        { return hostapi.Memory{}, nil }
func (m *fileMachine) ForkPoint(context.Context) (vm.ForkPoint, error) {
	_, err := os.Stat(m.frozen())
	return fileForkPoint{}, err
}
func (m *fileMachine) Snapshot(_ context.Context, to vm.NewDisks) (vm.ForkPoint, error) {
	for unit, path := range to.Data {
		if err := m.hold(unit, path); err != nil {
			return nil, err
		}
	}
	return fileForkPoint{}, os.WriteFile(m.path, []byte(to.Root), 0o600)
}

// begin puts the disks into a machine that begins.
func (m *fileMachine) begin(spec vm.MachineSpec) error {
	for _, d := range spec.DataDisks {
		if err := m.PlugDisk(context.Background(), d); err != nil {
			return err
		}
	}
	return os.WriteFile(m.path, []byte(spec.RootDisk), 0o600)
}

func (m *fileMachine) unit(unit int) string {
	return filepath.Join(filepath.Dir(m.path), fmt.Sprintf("data-%d", unit))
}

func (m *fileMachine) PlugDisk(_ context.Context, d vm.DataDisk) error {
	if held, err := os.ReadFile(m.unit(d.Unit)); err == nil {
		return fmt.Errorf("unit %d holds %q", d.Unit, held)
	}
	return m.hold(d.Unit, d.Path)
}

// hold puts a disk at a unit: a process that is killed in it has done so, or not.
func (m *fileMachine) hold(unit int, path string) error {
	tmp := filepath.Join(filepath.Dir(m.path), fmt.Sprintf("new-%d", unit))
	return errors.Join(os.WriteFile(tmp, []byte(path), 0o600), os.Rename(tmp, m.unit(unit)))
}

func (m *fileMachine) UnplugDisk(_ context.Context, unit int) error {
	if err := os.Remove(m.unit(unit)); err != nil {
		return fmt.Errorf("%w: %w", vm.ErrNoDisk, err)
	}
	return nil
}
func (m *fileMachine) Dial(context.Context, uint32) (net.Conn, error) {
	return nil, errors.New("nobody listens")
}
func (m *fileMachine) Log(context.Context, vmlog.Reader) (io.ReadCloser, int64, error) {
	return nil, 0, errors.New("there is no log")
}

func (m *fileMachine) SetLog(context.Context, hostapi.Log) error { return nil }
