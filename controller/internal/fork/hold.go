package fork

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/guest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// holdTime is how long the processes may take to stand still: longer than a tether waits for its kernel.
const holdTime = 15 * time.Second

// hold stops the processes of a container where they stand. With atPoint it first waits, as long as the client does, until one of
// them asks to be forked. When it fails nothing is held, or will be.
func (s *Service) hold(ctx context.Context, c container.Container, atPoint bool) error {
	l, err := s.host.Link(ctx, c.VM.Ref)
	if err != nil {
		return err
	}
	if !atPoint {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, holdTime)
		defer cancel()
	}
	// A tether does not see that its caller gave up: the call goes on, and what it holds in the end is let go.
	done := make(chan error, 1)
	go func() {
		_, err := l.Tether().Hold(context.WithoutCancel(ctx), &tetherv1.HoldRequest{AtPoint: atPoint})
		done <- err
	}()
	select {
	case err := <-done:
		return guest.Failed(err, "cannot hold its processes")
	case <-ctx.Done():
		go func() {
			s.letGo(context.Background(), c)
			if err := <-done; err == nil { // the call ends with the link at the latest
				s.letGo(context.Background(), c)
			}
		}()
		return fmt.Errorf("its processes do not stand still: %w", ctx.Err())
	}
}

// letGo ends a hold that no fork comes of, if there is one.
func (s *Service) letGo(ctx context.Context, c container.Container) {
	if err := s.release(ctx, c, nil); err != nil && !errdefs.IsFailedPrecondition(err) {
		s.log.Warn("cannot let the processes of a container go on", "container", c.ID, "err", err)
	}
}

// release lets the processes go on, also when the client has left. fork is the fork that was taken; nil: none. The error's class is
// errdefs.ErrFailedPrecondition when nothing is held.
func (s *Service) release(ctx context.Context, c container.Container, fork *tetherv1.Fork) error {
	err := s.calls.Call(context.WithoutCancel(ctx), c.VM.Ref, func(ctx context.Context, t tetherv1.TetherService) error {
		_, err := t.Release(ctx, &tetherv1.ReleaseRequest{Fork: fork})
		return err
	})
	return guest.Failed(err, "cannot let its processes go on")
}
