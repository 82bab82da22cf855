package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// PowerOn starts a VM and returns once its CPUs run.
func (i *Inventory) PowerOn(ctx context.Context, ref string) (err error) {
	begun := time.Now()
	defer func() { i.observe(Outcome{Err: err}, begun) }()
	e, release, err := i.acquire(ctx, ref)
	if err != nil {
		return err
	}
	defer release()
	v := i.snapshot(e)
	if v.Power != PoweredOff {
		return &StateError{Name: v.Name, Current: v.Power, Required: PoweredOff}
	}
	spec, err := i.machineSpec(v)
	if err != nil {
		return err
	}
	if err := i.reserve(e, BootCostMiB); err != nil {
		return err
	}
	err = i.start(ctx, e, spec)
	i.settled(e, err == nil)
	if err != nil {
		return fmt.Errorf("cannot power on VM %s: %w", v.Name, err)
	}
	return nil
}

func (i *Inventory) start(ctx context.Context, e *entry, spec MachineSpec) error {
	for _, dir := range []string{spec.RunDir, spec.HomeDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	last := i.snapshot(e)
	if err := i.change(e, noted, func(v *VM) {
		v.Pending = &Pending{Kind: pendingStart}
		v.Guest, v.Exit, v.Timeline = nil, nil, begun()
		v.Runs++
		v.Run, spec.Run = v.Runs, v.Runs
	}); err != nil {
		return err
	}
	m, err := i.opt.Hypervisor.Start(ctx, spec)
	if err == nil {
		if err = i.began(e, m, journaled); err != nil {
			err = errors.Join(err, m.Kill(context.WithoutCancel(ctx)), m.Close())
		}
	}
	if err != nil {
		return errors.Join(err, i.change(e, noted, func(v *VM) {
			v.Pending, v.Guest, v.Exit, v.Run, v.Timeline = nil, last.Guest, last.Exit, last.Run, last.Timeline
		}), os.RemoveAll(spec.RunDir))
	}
	return nil
}

// began records that the VM runs as the machine m, and follows what happens in it.
func (i *Inventory) began(e *entry, m Machine, d durability) error {
	e.write.Lock()
	defer e.write.Unlock()
	next := i.snapshot(e).clone()
	next.Power = PoweredOn
	if p := next.Pending; p != nil && (p.Kind == pendingStart || p.Kind == pendingClone) {
		next.Pending = nil
	}
	if next.Started.IsZero() {
		next.Started = time.Now().UTC()
	}
	if err := i.record(d, next); err != nil {
		return err
	}
	i.publish(func() {
		e.vm, e.machine, e.ended, e.reserved = next, m, make(chan struct{}), true
	})
	i.ops.Go(func() { i.watch(e, m) })
	return nil
}

// watch follows a machine until it ends or is let go.
func (i *Inventory) watch(e *entry, m Machine) {
	var exit *Exit
	for ev := range m.Events() {
		switch {
		case ev.Guestinfo != nil:
			i.guestSet(e, ev.Guestinfo)
		case ev.Frozen:
			i.froze(e)
		case ev.Mark != nil:
			i.marked(e, *ev.Mark)
		case ev.Exit != nil:
			exit = ev.Exit
		}
	}
	if exit == nil {
		i.mu.Lock()
		closing := i.closing
		i.mu.Unlock()
		if closing {
			return
		}
		exit = &Exit{At: time.Now().UTC(), Reason: "the machine's supervisor is gone without a report"}
	}
	i.end(e, exit)
	if err := m.Close(); err != nil {
		i.opt.Log.Warn("cannot let go of an ended machine", "vm", i.snapshot(e).Name, "err", err)
	}
}

// guestSet takes a key that the guest has set. It is not journaled: the machine tells it again at adoption and in its
// last report. A key that was already set to this value wakes no one.
func (i *Inventory) guestSet(e *entry, g *Guestinfo) {
	if old, ok := i.snapshot(e).Guest[g.Key]; ok && old == g.Value {
		return
	}
	_ = i.change(e, inMemory, func(v *VM) { // cannot fail: nothing is written
		if v.Guest == nil {
			v.Guest = map[string]string{}
		}
		v.Guest[g.Key] = g.Value
	})
}

// end records the end of a machine. When the journal fails the VM is off all the same: the truth is that it is.
func (i *Inventory) end(e *entry, exit *Exit) {
	e.write.Lock()
	defer e.write.Unlock()
	next := i.snapshot(e).clone()
	stopped(next, exit)
	if err := i.record(journaled, next); err != nil {
		i.opt.Log.Error("cannot journal the end of a machine", "vm", next.Name, "err", err)
	}
	if err := os.RemoveAll(i.runDir(next.Ref)); err != nil {
		i.opt.Log.Warn("cannot remove a machine's run directory", "vm", next.Name, "err", err)
	}
	i.opt.Log.Info("VM ended", "vm", next.Name, "ref", next.Ref, "orderly", exit.Orderly, "reason", exit.Reason)
	i.publish(func() {
		e.vm, e.machine, e.reserved = next, nil, false
		close(e.ended)
	})
	i.unshelve(next.Ref)
}

func stopped(v *VM, exit *Exit) {
	v.Power, v.Started, v.Exit, v.Frozen, v.Point = PoweredOff, time.Time{}, exit, false, ""
	if v.Pending != nil && (v.Pending.Kind == pendingStart || v.Pending.Kind == pendingClone) {
		v.Pending = nil
	}
	if exit.Guestinfo != nil {
		v.Guest = exit.Guestinfo
	}
}

// PowerOff ends a VM at once, as by pulling the plug, and returns when its machine is gone.
func (i *Inventory) PowerOff(ctx context.Context, ref string) error {
	e, release, err := i.acquire(ctx, ref)
	if err != nil {
		return err
	}
	defer release()
	i.mu.Lock()
	v, m, ended := e.vm, e.machine, e.ended
	i.mu.Unlock()
	if m == nil {
		return &StateError{Name: v.Name, Current: v.Power, Required: PoweredOn}
	}
	if err := m.Kill(ctx); err != nil {
		return fmt.Errorf("cannot power off VM %s: %w", v.Name, err)
	}
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot see the end of VM %s: %w", v.Name, ctx.Err())
	}
}

// Reset restarts a running VM as by a reset button.
func (i *Inventory) Reset(ctx context.Context, ref string) error {
	_, release, err := i.acquire(ctx, ref)
	if err != nil {
		return err
	}
	defer release()
	m, err := i.Live(ref)
	if err != nil {
		return err
	}
	if err := m.Reset(ctx); err != nil {
		return fmt.Errorf("cannot reset VM %s: %w", ref, err)
	}
	return nil
}
