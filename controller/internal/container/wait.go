package container

import (
	"context"
	"errors"

	"github.com/moby/moby/api/types/container"

	"github.com/containervm/containervm/controller/internal/vsphere"
)

// Wait returns a function that blocks until a container meets a condition and returns the exit code of the run that met it. A run
// that ends after Wait has returned is not missed, however short it is. stop must be called in the end.
func (s *Service) Wait(ctx context.Context, ref string, condition container.WaitCondition) (wait func() (code int, err error), stop func(), err error) {
	ctx, stop = context.WithCancel(ctx)
	events := s.host.Subscribe(ctx)
	c, err := s.Get(ref)
	if err != nil {
		stop()
		return nil, nil, err
	}
	w := &waiter{condition: condition, vm: c.VM.Ref, last: c}
	switch condition {
	case "", container.WaitConditionNotRunning:
		w.met = !c.Active()
	case container.WaitConditionNextExit, container.WaitConditionRemoved:
	default:
		stop()
		return nil, nil, invalid("invalid condition: %q", condition)
	}
	return func() (int, error) { return w.wait(ctx, events) }, stop, nil
}

// waiter follows one container through the events.
type waiter struct {
	condition container.WaitCondition
	vm        vsphere.Ref
	last      Container // as seen last
	met       bool
}

func (w *waiter) wait(ctx context.Context, events <-chan vsphere.VMEvent) (code int, err error) {
	for !w.met {
		e, ok := <-events
		if !ok {
			return 0, errors.Join(errors.New("cannot wait for the container any longer"), ctx.Err())
		}
		w.see(e)
	}
	return w.last.ExitCode(), nil
}

// see applies an event. A container that is removed meets every condition with its last exit code.
func (w *waiter) see(e vsphere.VMEvent) {
	switch {
	case e.After == nil && e.Before.Ref == w.vm:
		w.met = true
		return
	case e.After == nil || e.After.Ref != w.vm:
		return
	}
	now := w.last.at(*e.After)
	ended := now.goneSince(&w.last)
	w.last = now
	w.met = ended && w.condition != container.WaitConditionRemoved
}
