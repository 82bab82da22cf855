package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/containervm/containervm/hostd-bridge/internal/netswitch"
	"github.com/containervm/containervm/hostd-bridge/internal/qemu"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// Run runs the daemon on QEMU until ctx ends; the VMs go on running. It calls ready when clients can connect.
func Run(ctx context.Context, c Config, ready func(Endpoint)) error {
	hypervisor, err := qemu.New(ctx, qemu.Config{
		QEMU: c.QEMU, Supervisor: c.Supervisor, Accel: c.Accel, Capture: c.Capture, TrialKernel: existing(filepath.Join(c.GuestDir, "vmlinux")),
		Datastore: c.datastore(), DebugSupervisor: c.DebugSupervisor, DebugGuest: c.DebugGuest, Log: c.Log,
	})
	if err != nil {
		return fmt.Errorf("cannot run VMs: %w", err)
	}
	if c.Switch == "" {
		c.Switch = filepath.Join(filepath.Dir(c.Supervisor), "cvm-switch")
	}
	return RunOn(ctx, c, real{hypervisor, processes{program: c.Switch, log: c.Log}}, ready)
}

// real is the Backend that is not for tests.
type real struct {
	*qemu.Hypervisor
	processes
}

// processes are switches as processes of this host.
type processes struct {
	program string // path of cvm-switch
	log     *slog.Logger
}

// StartSwitch implements vm.Switches.
func (p processes) StartSwitch(ctx context.Context, dir, name string) (vm.Switch, error) {
	s, err := netswitch.Start(ctx, netswitch.Options{Program: p.program, Dir: dir, Name: name, Log: p.log})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// AdoptSwitch implements vm.Switches.
func (p processes) AdoptSwitch(ctx context.Context, dir string) (vm.Switch, error) {
	s, err := netswitch.Adopt(ctx, dir)
	if err != nil || s == nil {
		return nil, err // not a nil of *netswitch.Switch, which would be a Switch
	}
	return s, nil
}
