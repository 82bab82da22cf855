package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/admission"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/inventory"
)

// PowerOn starts a VM and returns once its CPUs run.
func (l *Lifecycle) PowerOn(ctx context.Context, ref string) (err error) {
	begun := time.Now()
	defer func() { l.opt.Observe(vm.Outcome{Took: time.Since(begun), Err: err}) }()
	e, release, err := l.opt.Inventory.Acquire(ctx, ref)
	if err != nil {
		return err
	}
	defer release()
	v := e.VM()
	if v.Power != vm.PoweredOff {
		return &vm.StateError{Name: v.Name, Current: v.Power, Required: vm.PoweredOff}
	}
	spec, err := l.bootSpec(ctx, v)
	if err != nil {
		return err
	}
	settle, err := l.opt.Admission.Admit(v, admission.BootCostMiB)
	if err != nil {
		return err
	}
	defer settle()
	net, err := l.opt.Networks.Begin(ctx, v, nil)
	if err != nil {
		return err // in the words of who asks for ports
	}
	if err := l.start(ctx, e, spec, net.Published); err != nil {
		net.Undo(ctx)
		return fmt.Errorf("cannot power on VM %s: %w", v.Name, err)
	}
	net.End()
	return nil
}

func (l *Lifecycle) start(ctx context.Context, e *inventory.Entry, spec vm.MachineSpec, ports []hostapi.Publication) error {
	for _, dir := range []string{spec.RunDir, spec.HomeDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	last := e.VM()
	if err := l.opt.Disks.Open(e, func(v *vm.VM) {
		v.InFlight = &vm.Operation{Kind: vm.OpStart}
		v.Guest, v.Exit, v.Timeline, v.Published = nil, nil, Timeline(), ports
		v.Runs++
		v.Run, spec.Run = v.Runs, v.Runs
	}); err != nil {
		return errors.Join(err, os.RemoveAll(spec.RunDir))
	}
	m, err := l.opt.Hypervisor.Start(ctx, spec)
	if err == nil {
		err = l.Began(ctx, e, m, inventory.Synced, ports)
	}
	if err != nil {
		return errors.Join(err, l.rollBackStart(e, last, spec.RunDir))
	}
	return nil
}

// rollBackStart makes a VM what it was before a start that failed. The run's number is not used again.
func (l *Lifecycle) rollBackStart(e *inventory.Entry, last *vm.VM, runDir string) error {
	if err := os.RemoveAll(runDir); err != nil {
		return err
	}
	return e.Change(inventory.Written, func(v *vm.VM) {
		v.InFlight, v.Guest, v.Exit, v.Run, v.Timeline = nil, last.Guest, last.Exit, last.Run, last.Timeline
		v.Published = nil
	})
}

// Began records that the VM runs as the machine m and publishes ports, and follows what happens in it. When that fails the machine is
// ended.
func (l *Lifecycle) Began(ctx context.Context, e *inventory.Entry, m vm.Machine, d inventory.Durability, ports []hostapi.Publication) error {
	if err := l.follow(e, m, d, func(v *vm.VM) { v.Published = ports }); err != nil {
		return errors.Join(err, End(ctx, m))
	}
	return nil
}

// End ends a machine that no VM has.
func End(ctx context.Context, m vm.Machine) error {
	err := m.Kill(context.WithoutCancel(ctx))
	return errors.Join(err, m.Close()) // also one that could not be killed is let go of
}

func (l *Lifecycle) follow(e *inventory.Entry, m vm.Machine, d inventory.Durability, edit func(*vm.VM)) error {
	err := e.Began(d, m, func(v *vm.VM) {
		edit(v)
		v.Power = vm.PoweredOn
		endOfStart(v)
		if v.Started.IsZero() {
			v.Started = time.Now().UTC()
		}
	})
	if err != nil {
		return err
	}
	l.watches.Go(func() { l.watch(e, m) })
	return nil
}

// endOfStart takes the start of a machine off the VM's operation in flight: it has succeeded, or the machine has ended.
func endOfStart(v *vm.VM) {
	if o := v.InFlight; o != nil && (o.Kind == vm.OpStart || o.Kind == vm.OpClone) {
		v.InFlight = nil
	}
}

// PowerOff ends a VM at once, as by pulling the plug, and returns when its machine is gone.
func (l *Lifecycle) PowerOff(ctx context.Context, ref string) error {
	e, release, err := l.opt.Inventory.Acquire(ctx, ref)
	if err != nil {
		return err
	}
	defer release()
	v := e.VM()
	m, ended := e.Machine()
	if m == nil {
		return &vm.StateError{Name: v.Name, Current: vm.PoweredOff, Required: vm.PoweredOn}
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
func (l *Lifecycle) Reset(ctx context.Context, ref string) error {
	_, release, err := l.opt.Inventory.Acquire(ctx, ref)
	if err != nil {
		return err
	}
	defer release()
	m, err := l.opt.Inventory.Live(ref)
	if err != nil {
		return err
	}
	if err := m.Reset(ctx); err != nil {
		return fmt.Errorf("cannot reset VM %s: %w", ref, err)
	}
	return nil
}
