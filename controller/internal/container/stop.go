package container

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/controller/internal/guest"
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
// that does not go, has its machine powered off. The error of a container that does not run is of class
// errdefs.ErrNotModified.
func (s *Service) Stop(ctx context.Context, ref string, opt StopOptions) error {
	c, err := s.Get(ref)
	if err != nil {
		return err
	}
	if !c.Running() {
		return errdefs.ErrNotModified.WithMessage("container already stopped")
	}
	return s.stop(context.WithoutCancel(ctx), c, opt)
}

func (s *Service) stop(ctx context.Context, c Container, opt StopOptions) error {
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
	if err := s.calls.Tell(ctx, c.VM, func(ctx context.Context, t tetherv1.TetherService) error {
		_, err := t.Stop(ctx, req)
		return err
	}); err != nil {
		s.log.Warn("a tether does not take a stop, ending its machine", "container", c.ID, "err", err)
		return s.powerOff(c)
	}
	return s.awaitOff(ctx, c, seconds)
}

// awaitOff waits until a machine that was told to end is off, and ends it when it is late.
func (s *Service) awaitOff(ctx context.Context, c Container, graceSeconds int) error {
	if graceSeconds >= 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(graceSeconds)*time.Second+s.times.Off)
		defer cancel()
	}
	_, err := s.host.Wait(ctx, c.VM.Ref, isOff)
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
	c, err := s.GetRunning(ref)
	if err != nil {
		if errdefs.IsConflict(err) {
			return errdefs.ErrConflict.WithMessage(fmt.Sprintf("cannot kill container: %s: %v", ref, err))
		}
		return err
	}
	ctx = context.WithoutCancel(ctx)
	err = s.calls.Tell(ctx, c.VM, func(ctx context.Context, t tetherv1.TetherService) error {
		_, err := t.Signal(ctx, &tetherv1.SignalRequest{Session: link.MainSession, Signal: n})
		return err
	})
	if err == nil && c.Paused() && n != int32(unix.SIGKILL) && endsPause(&c.Config, n) {
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

// endsPause reports whether a signal lets a paused container go on, by Docker's rule: any does when the container has no stop signal of its
// own, else that one alone.
func endsPause(c *container.Config, sig int32) bool {
	own, err := signal.Parse(c.StopSignal)
	return c.StopSignal == "" || err == nil && own == sig
}

// Restart stops the container when it runs, and starts it.
func (s *Service) Restart(ctx context.Context, ref string, opt StopOptions) error {
	c, err := s.Get(ref)
	if err != nil {
		return err
	}
	if c.Running() {
		if err := s.stop(context.WithoutCancel(ctx), c, opt); err != nil {
			return err
		}
	}
	return s.Start(ctx, c.ID)
}
