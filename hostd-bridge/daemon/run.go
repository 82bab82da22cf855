package daemon

import (
	"context"
	"fmt"

	"github.com/containervm/containervm/hostd-bridge/internal/qemu"
)

// Run runs the daemon on QEMU until ctx ends; the VMs go on running. It calls ready when clients can connect.
func Run(ctx context.Context, c Config, ready func(Endpoint)) error {
	hypervisor, err := qemu.New(ctx, qemu.Config{
		QEMU: c.QEMU, Supervisor: c.Supervisor, Accel: c.Accel, Capture: c.Capture,
		DebugSupervisor: c.DebugSupervisor, DebugGuest: c.DebugGuest, Log: c.Log,
	})
	if err != nil {
		return fmt.Errorf("cannot run VMs: %w", err)
	}
	return RunOn(ctx, c, hypervisor, ready)
}
