package supervisor

import (
	"context"
	"errors"

	"github.com/containervm/containervm/hostd-bridge/internal/vsock"
)

// The operations of this file are the owner's.

// pause stops the CPUs.
func (m *machine) pause(ctx context.Context) error { return m.switchCPUs(ctx, "stop", statePaused) }

// resume lets the CPUs run.
func (m *machine) resume(ctx context.Context) error { return m.switchCPUs(ctx, "cont", stateRunning) }

func (m *machine) switchCPUs(ctx context.Context, command string, next runState) error {
	if err := m.check(next); err != nil {
		return err
	}
	if err := m.qmp.Execute(ctx, command, nil, nil); err != nil {
		return err
	}
	if err := m.enter(next); err != nil {
		return err
	}
	if next == stateRunning {
		m.sets.sweep(ctx, m.qmp)
	}
	return nil
}

// running reports whether the CPUs run.
func (m *machine) running() bool { return m.state == stateRunning }

// attach puts a disk into the empty root slot.
func (m *machine) attach(ctx context.Context, image Image) error {
	if err := m.checkLive(); err != nil {
		return err
	}
	return m.attachRoot(ctx, image)
}

// detach empties the root slot.
func (m *machine) detach(ctx context.Context) error {
	if err := m.checkLive(); err != nil {
		return err
	}
	return m.detachRoot(ctx)
}

// plug puts a data disk into the machine.
func (m *machine) plug(ctx context.Context, disk Disk) error {
	if err := m.checkLive(); err != nil {
		return err
	}
	return m.plugIn(ctx, disk)
}

// unplug takes a data disk out.
func (m *machine) unplug(ctx context.Context, unit int) error {
	if err := m.checkLive(); err != nil {
		return err
	}
	return m.takeOut(ctx, unit)
}

// setNIC says what the network card in a slot is from now on.
func (m *machine) setNIC(ctx context.Context, slot int, card Card) error {
	if err := m.checkLive(); err != nil {
		return err
	}
	return m.cards.set(ctx, m.qmp, slot, card)
}

// restart resets the guest. QEMU runs with -no-reboot, by which a guest without ACPI powers off, so a reset by hand
// must change what a reset means for a moment.
func (m *machine) restart(ctx context.Context) error {
	if err := m.checkLive(); err != nil {
		return err
	}
	if err := m.onReboot(ctx, "reset"); err != nil {
		return err
	}
	return errors.Join(m.systemReset(ctx), m.onReboot(context.WithoutCancel(ctx), "shutdown"))
}

// systemReset resets the guest and waits until that is done.
func (m *machine) systemReset(ctx context.Context) error {
	select {
	case <-m.events.resets: // of the machine's start
	default:
	}
	if err := m.qmp.Execute(ctx, "system_reset", nil, nil); err != nil {
		return err
	}
	select {
	case <-m.events.resets:
	case <-m.qemu.ended:
		return errEnded
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if dev, ok := m.vsock.(*vsock.Device); ok {
		dev.Reset()
	}
	m.info.Restart()
	return nil
}

// onReboot sets what a reboot of the guest does (QMP set-action).
func (m *machine) onReboot(ctx context.Context, action string) error {
	return m.qmp.Execute(ctx, "set-action", map[string]string{"reboot": action}, nil)
}
