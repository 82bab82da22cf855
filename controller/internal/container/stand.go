package container

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// standPause is the pause before a container that stands is told again to go on.
const standPause = 100 * time.Millisecond

// Stand pauses a container for work that takes its files as they are at one moment. goOn, which must be called, ends that; it asks until the
// host is there again, for as long as a start may take. The VM is marked meanwhile with record.KeyStands, so that the next controller lets the
// container go on if this one dies.
func (s *Service) Stand(ctx context.Context, ref string) (goOn func() error, err error) {
	c, err := s.Get(ref)
	if err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx)
	if err := s.host.Reconfigure(ctx, c.VM.Ref, map[string]string{record.KeyStands: c.Run.String()}); err != nil {
		return nil, fmt.Errorf("cannot pause %s: %w", &c, err)
	}
	if err := s.Pause(ctx, c.ID); err != nil {
		return nil, fmt.Errorf("%w%s", err, s.unmark(ctx, c))
	}
	return func() error {
		ctx, cancel := context.WithTimeout(ctx, s.times.Start)
		defer cancel()
		return s.goOn(ctx, c, c.Run)
	}, nil
}

// unmark takes the mark away, and says so where that fails: it may be seen to later.
func (s *Service) unmark(ctx context.Context, c Container) string {
	if err := s.host.Reconfigure(ctx, c.VM.Ref, map[string]string{record.KeyStands: ""}); err != nil {
		return " (and " + err.Error() + ")"
	}
	return ""
}

// goOn lets the processes of a run go on, and takes the mark away.
func (s *Service) goOn(ctx context.Context, c Container, run hostapi.Run) error {
	for {
		now, err := s.Get(c.ID)
		if err == nil && now.Paused() && now.Run == run { // else it has ended, or its user let it go on
			err = s.setPaused(ctx, now, false)
		}
		if err == nil {
			err = s.host.Reconfigure(ctx, c.VM.Ref, map[string]string{record.KeyStands: ""})
		}
		if err == nil || errdefs.IsNotFound(err) {
			return nil
		}
		select {
		case <-time.After(standPause):
		case <-ctx.Done():
			return fmt.Errorf("cannot let %s go on, unpause it: %w", &c, err)
		}
	}
}

// goOnLeft lets containers go on that an earlier controller had stand.
func (s *Service) goOnLeft(ctx context.Context) {
	for _, c := range s.All() {
		if mark := c.VM.Extra[record.KeyStands]; mark != "" {
			if err := s.goOn(ctx, c, hostapi.RunOf(map[string]string{hostapi.KeyRun: mark})); err != nil {
				s.log.Warn("a container stands still", "container", c.ID, "err", err)
			}
		}
	}
}
