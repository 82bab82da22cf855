package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/tether/internal/forkpoint"
	"github.com/containervm/containervm/tether/internal/process"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

const (
	// maxHold is how long the processes stand without a Release: a controller that dies must not stop a container for ever.
	maxHold = time.Minute
	// freezeWait is how long the kernel may take to stop them: one that waits for a disk stops when it is served.
	freezeWait = 10 * time.Second
)

// errNotHeld has the class by which a host tells it from a release that failed.
var errNotHeld = link.Refuse(errdefs.ErrFailedPrecondition, "the container's processes are not held")

// hold stops the container's processes for a fork, and lets them go on; those that are paused stay so. Its methods may be called by several goroutines.
type hold struct {
	container *process.Container
	console   *slog.Logger
	point     *forkpoint.Point
	main      int // PID of the main process; set before anything is held

	mu    sync.Mutex
	limit *time.Timer // nil: the processes run
}

// newHold makes the container's fork point, which nobody finds before the container's PID 1 runs.
func newHold(c *process.Container, console *slog.Logger) (*hold, error) {
	h := &hold{container: c, console: console}
	err := c.Do(func() (err error) {
		h.point, err = forkpoint.Bind()
		return err
	})
	if err != nil {
		return nil, err
	}
	c.Listen(h.point.Descriptor())
	return h, nil
}

// serve serves the fork point of a container whose main process has the PID main.
func (h *hold) serve(main int) error {
	h.main = main
	return h.point.Serve()
}

func (h *hold) close() { h.point.Close() }

// take stops the processes, with atPoint once one of them waits at its fork point.
func (h *hold) take(ctx context.Context, atPoint bool) error {
	if atPoint {
		if err := h.point.Await(ctx); err != nil {
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.limit != nil {
		return errors.New("the container's processes are held already")
	}
	return h.freezeLocked(ctx)
}

// freezeLocked stops the processes. The caller holds mu.
func (h *hold) freezeLocked(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, freezeWait)
	defer cancel()
	if err := h.container.Freeze(ctx, process.Held); err != nil {
		return err
	}
	h.limit = time.AfterFunc(maxHold, func() {
		h.console.Warn("the container's processes were held too long, and go on", "limit", maxHold)
		_ = h.release(nil)
	})
	return nil
}

// forked stops the processes in a machine that has become a fork, also when nobody held them in its source.
func (h *hold) forked(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.container.Forked()
	if h.limit == nil {
		return h.freezeLocked(ctx)
	}
	h.limit.Stop() // a fork's own end is what bounds it
	return nil
}

// release lets the processes go on. Those that wait at their fork point learn of the fork f, if there was one.
func (h *hold) release(f *tetherv1.Fork) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.limit == nil {
		return errNotHeld
	}
	h.limit.Stop()
	h.limit = nil
	if f != nil {
		h.point.Answer(h.main, f.Generation, f.Index)
	}
	return h.container.Thaw(process.Held)
}
