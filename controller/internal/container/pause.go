package container

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/controller/internal/guest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Paused reports whether the container's processes stand by a pause. Its guest says so, so that it is true for any controller.
func (c *Container) Paused() bool { return c.Running() && c.Status.GetPaused() }

// NotPaused is Docker's refusal of something that needs processes that go on: "exec", "attach".
func (c *Container) NotPaused(ref, what string) error {
	if !c.Paused() {
		return nil
	}
	return errdefs.ErrConflict.WithMessage(fmt.Sprintf("Container %s is paused, unpause the container before %s", ref, what))
}

// Pause stops the processes of a container where they are. The inventory shows it when it returns.
func (s *Service) Pause(ctx context.Context, ref string) error {
	c, err := s.Get(ref)
	switch {
	case err != nil:
		return err
	case !c.Running():
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("Container %s is not running", c.ID))
	case c.Paused():
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("Container %s is already paused", c.ID))
	}
	return guest.Failed(s.setPaused(ctx, c, true), "cannot pause %s", &c)
}

// Unpause lets the processes of a container go on.
func (s *Service) Unpause(ctx context.Context, ref string) error {
	c, err := s.Get(ref)
	switch {
	case err != nil:
		return err
	case !c.Paused():
		return errdefs.ErrInternal.WithMessage(fmt.Sprintf("Container %s is not paused", c.ID)) // Docker's status for it, too
	}
	return guest.Failed(s.setPaused(ctx, c, false), "cannot unpause %s", &c)
}

// pauseTime is how many times as long as for another answer a tether may take for a pause: a process that waits for a disk stands when it
// is served.
const pauseTime = 3

// setPaused has the tether stop the processes or let them go on, and waits until the inventory shows it. The client may leave meanwhile.
func (s *Service) setPaused(ctx context.Context, c Container, paused bool) error {
	ctx = context.WithoutCancel(ctx)
	patient := s.calls
	patient.Within *= pauseTime
	err := patient.Call(ctx, c.VM.Ref, func(ctx context.Context, t tetherv1.TetherService) error {
		_, err := t.Pause(ctx, &tetherv1.PauseRequest{Resume: !paused})
		return err
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.times.Link)
	defer cancel()
	_, err = Await(ctx, s.host, c, func(now *Container) bool { return now.Paused() == paused || !now.Running() || now.Run != c.Run })
	return err
}
