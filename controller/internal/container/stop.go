package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/signal"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// StopOptions say how to stop.
type StopOptions struct {
	Signal  string // empty: the container's own
	Seconds *int   // until SIGKILL; negative: never; nil: the container's own
}

// Stop asks the container's process to end and waits until the machine is off. A tether that does not answer, or a guest
// that does not go, has its machine powered off. The policy of the container does not restart it then. The error of a container that does
// not run is of class errdefs.ErrNotModified.
func (s *Service) Stop(ctx context.Context, ref string, opt StopOptions) error {
	c, err := s.Get(ref)
	if err != nil {
		return err
	}
	if !c.Active() {
		return errdefs.ErrNotModified.WithMessage("container already stopped")
	}
	if err := opt.check(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	c, end, err := s.beforeStop(ctx, c)
	if err != nil {
		return err
	}
	defer end()
	if c.Running() {
		if err := s.stop(ctx, ctx, c, opt); err != nil {
			return err
		}
	}
	s.Tell(&c, events.ActionStop, nil)
	return nil
}

// beforeStop has a container with a restart policy stay down after its end, unless it is the host that goes down. It waits for a start in
// flight then. Until end is called a policy that the container gets knows of the stop.
func (s *Service) beforeStop(ctx context.Context, c Container) (now Container, end func(), err error) {
	changing, end := s.starts.beginStop(c.ID)
	if c.hasPolicy() || changing {
		c, err = s.stopRestarts(ctx, c.ID)
	}
	if err != nil {
		end()
	}
	return c, end, err
}

// check refuses a signal that there is not.
func (o StopOptions) check() error {
	if o.Signal == "" {
		return nil
	}
	if _, err := signal.Parse(o.Signal); err != nil {
		return invalid("%v", err)
	}
	return nil
}

// stop ends a container that runs. ctx is for what is done, and patience for the wait.
func (s *Service) stop(ctx, patience context.Context, c Container, opt StopOptions) error {
	req := &tetherv1.StopRequest{}
	if opt.Signal != "" {
		n, err := signal.Parse(opt.Signal)
		if err != nil {
			return invalid("%v", err)
		}
		req.Signal = n
	}
	seconds := stopSeconds(&c.Config)
	if opt.Seconds != nil {
		seconds = *opt.Seconds
	}
	req.NoGraceLimit = seconds < 0
	req.GraceSeconds = uint32(max(0, seconds))
	s.tellKill(&c, cmp.Or(req.GetSignal(), c.stopSignal()))
	grace := time.Now().Add(time.Duration(seconds) * time.Second)
	if err := s.calls.Tell(ctx, c.VM, func(ctx context.Context, t tetherv1.TetherService) error {
		_, err := t.Stop(ctx, req)
		return err
	}); err != nil {
		s.log.Warn("a tether does not take a stop, ending its machine", "container", c.ID, "err", err)
		return s.powerOff(c)
	}
	if seconds >= 0 {
		before, cancel := context.WithDeadline(patience, grace)
		defer cancel()
		_, err := Await(before, s.host, c, func(now *Container) bool { return now.Phase() != PhaseRunning || now.Run > c.Run })
		if errors.Is(err, context.DeadlineExceeded) {
			s.tellKill(&c, int32(unix.SIGKILL)) // the tether sends it
		}
	}
	return s.awaitOff(patience, c, min(seconds, 0))
}

// awaitOff waits until a machine that was told to end is off, and ends it when it is late.
func (s *Service) awaitOff(ctx context.Context, c Container, graceSeconds int) error {
	if graceSeconds >= 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(graceSeconds)*time.Second+s.times.Off)
		defer cancel()
	}
	_, err := s.host.Wait(ctx, c.VM.Ref, c.isOver)
	switch {
	case err == nil, errdefs.IsNotFound(err):
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		s.log.Warn("a guest did not power off in time, ending its machine", "container", c.ID)
		return s.powerOff(c)
	default:
		return err
	}
}

// Kill sends a signal to the container's process. After SIGKILL it waits until the machine is off.
func (s *Service) Kill(ctx context.Context, ref, sig string) error {
	if sig == "" {
		sig = "KILL"
	}
	n, err := signal.Parse(sig)
	if err != nil {
		return invalid("%v", err)
	}
	c, err := s.Get(ref)
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	if c.Active() && c.endsBy(n) {
		var end func()
		if c, end, err = s.beforeStop(ctx, c); err != nil {
			return err
		}
		defer end()
		if c.gone() {
			return nil // it was about to be restarted
		}
	}
	if !c.Running() {
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("cannot kill container: %s: container %s is not running", ref, c.ID))
	}
	s.tellKill(&c, n)
	err = s.calls.Tell(ctx, c.VM, func(ctx context.Context, t tetherv1.TetherService) error {
		_, err := t.Signal(ctx, &tetherv1.SignalRequest{Session: link.MainSession, Signal: n})
		return err
	})
	if err == nil && c.Paused() && n != int32(unix.SIGKILL) && c.endsBy(n) {
		err = s.setPaused(ctx, c, false)
	}
	if n != int32(unix.SIGKILL) {
		return guest.Failed(err, "cannot kill container %s", ref)
	}
	if err != nil {
		s.log.Warn("a tether does not take a kill, ending its machine", "container", c.ID, "err", err)
		return s.powerOff(c)
	}
	return s.awaitOff(ctx, c, 0)
}

// endsBy reports whether a signal means that the container is to end, so that its policy does not restart it. As in Docker that is any, unless
// the container says which one ends it.
func (c *Container) endsBy(n int32) bool {
	return c.Config.StopSignal == "" || n == int32(unix.SIGKILL) || n == c.stopSignal()
}

// stopSignal is the signal that ends the container.
func (c *Container) stopSignal() int32 {
	n, err := stopSignal(&c.Config)
	if err != nil || n == 0 {
		return int32(unix.SIGTERM)
	}
	return n
}

// tellKill tells that a signal is sent to the process.
func (s *Service) tellKill(c *Container, n int32) {
	s.Tell(c, events.ActionKill, map[string]string{"signal": strconv.Itoa(int(n))})
}

// Restart stops the container when it runs, and starts it. Nobody else starts it in between, and a container with AutoRemove is not removed.
func (s *Service) Restart(ctx context.Context, ref string, opt StopOptions) error {
	begun := time.Now()
	defer s.templates.Busy()()
	c, err := s.Get(ref)
	if err != nil {
		return err
	}
	if err := opt.check(); err != nil {
		return err
	}
	op, err := s.starts.acquire(ctx, c.ID, toStart)
	if err != nil {
		return err
	}
	defer op.release()
	ctx = context.WithoutCancel(ctx)
	if c, err = s.Get(c.ID); err != nil {
		return err
	}
	if c.Running() {
		if err := s.stop(ctx, op.patience, c, opt); err != nil {
			if context.Cause(op.patience) == errAbandoned {
				err = errAbandoned
			}
			return err
		}
		s.Tell(&c, events.ActionStop, nil)
		if c, err = s.Get(c.ID); err != nil {
			return err
		}
	}
	if err := s.bring(ctx, op, c, begun, record.Restart{}); err != nil {
		return err
	}
	s.Tell(&c, events.ActionRestart, nil)
	return nil
}
