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
)

// fileHypervisor is a vm.Hypervisor whose machines are files, so that they outlive the process: the file "machine" in
// the run directory stands for a supervisor, and holds what is in the root slot.
type fileHypervisor struct{}

func (fileHypervisor) Describe() string { return "files, for tests" }

// freezes is the guestinfo that makes a machine freeze as soon as it boots.
const freezes = "guestinfo.freezes"

func (fileHypervisor) Start(_ context.Context, spec vm.MachineSpec) (vm.Machine, error) {
	m := newFileMachine(spec.RunDir)
	if err := os.WriteFile(m.path, []byte(spec.RootDisk), 0o600); err != nil {
		return nil, err
	}
	if spec.Guestinfo[freezes] == "" {
		return m, nil
	}
	return m, m.freeze()
}

func (fileHypervisor) Adopt(_ context.Context, runDir string) (vm.Machine, *vm.Exit, error) {
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
	return m, os.WriteFile(m.path, []byte(spec.RootDisk), 0o600)
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

func (m *fileMachine) AttachDisk(_ context.Context, path string) error {
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
func (m *fileMachine) PlugDisk(context.Context, vm.DataDisk) error           { return nil }
func (m *fileMachine) UnplugDisk(context.Context, int) error                 { return nil }
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
	return fileForkPoint{}, os.WriteFile(m.path, []byte(to.Root), 0o600)
}
func (m *fileMachine) Dial(context.Context, uint32) (net.Conn, error) {
	return nil, errors.New("nobody listens")
}
func (m *fileMachine) Log(context.Context, int64, bool) (io.ReadCloser, error) {
	return nil, errors.New("there is no log")
}
