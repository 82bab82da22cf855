package container

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
)

// RemoveOptions say how a container is removed.
type RemoveOptions struct {
	Force   bool // also one that runs: it is ended at once
	Volumes bool // the volumes without a name that were made for it go with it
}

// Remove destroys a container.
func (s *Service) Remove(ctx context.Context, ref string, opt RemoveOptions) error {
	c, err := s.Get(ref)
	if err != nil {
		return err
	}
	if c.Running() && !opt.Force {
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf(
			"cannot remove container %q: container is %s: stop the container before removing or force remove", "/"+c.Name, c.State()))
	}
	if err := s.remove(context.WithoutCancel(ctx), c, opt.Volumes); err != nil {
		return fmt.Errorf("cannot remove container %q: %w", "/"+c.Name, err)
	}
	return nil
}

// remove ends the machine if it runs and destroys it, with its own volumes if that is asked for. One that is gone is no error: someone else
// was faster.
func (s *Service) remove(ctx context.Context, c Container, volumes bool) (err error) {
	var own []string
	if volumes {
		own = c.ownVolumes()
	}
	s.takeBack(ctx, c.ID, false)
	s.endWriting(ctx, c, own)
	if len(own) > 0 {
		if err := s.volumes.Doom(ctx, own); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.volumes.Doomed(ctx, own, s.VolumeUsers)) }()
	}
	return s.destroy(ctx, c)
}

func (s *Service) destroy(ctx context.Context, c Container) error {
	if now, ok := s.host.Get(c.ID); ok && !isOff(now) {
		if err := s.powerOff(c); err != nil {
			return err
		}
	}
	if now, ok := s.host.Get(c.ID); ok {
		if err := s.detach(ctx, c.at(now)); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	if err := s.host.Destroy(ctx, c.VM.Ref); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if err := s.images.Released(ctx, c.ImageID, s.ImageUsers); err != nil {
		s.log.Warn("cannot free the layers of a removed image", "image", c.ImageID, "err", err)
	}
	return nil
}

// removeEnded removes a container once no start of it is in flight. It does not wait for a machine that only has to write its
// root disk: that is removed too.
func (s *Service) removeEnded(ctx context.Context, c Container) error {
	release, err := s.AcquireStart(ctx, c.ID)
	if err != nil {
		return err
	}
	defer release()
	if vm, ok := s.host.Get(c.ID); ok {
		if c = c.at(vm); !c.over() {
			return nil // started again meanwhile
		}
	}
	return s.remove(ctx, c, true)
}

// Prune removes all containers that do not run and that match, and returns their IDs.
func (s *Service) Prune(ctx context.Context, match func(Container) bool) ([]string, error) {
	var removed []string
	var failed []error
	for _, c := range s.All() {
		if c.Running() || !match(c) {
			continue
		}
		if err := s.remove(ctx, c, false); err != nil {
			failed = append(failed, fmt.Errorf("cannot remove container %q: %w", "/"+c.Name, err))
			continue
		}
		removed = append(removed, c.ID)
	}
	return removed, errors.Join(failed...)
}

// removeRetry is the pause before an automatic removal that failed is tried again, and removeTries how often it is.
const (
	removeRetry = 2 * time.Second
	removeTries = 5
)

// remover removes containers, each in a goroutine of its own.
type remover struct {
	s    *Service
	busy map[string]bool
	done chan removal
}

// removal is one that has ended. Without an error the container is gone, or was started again.
type removal struct {
	id  string
	err error
}

// consider begins the removal of a container that has ended and wants it.
func (r *remover) consider(ctx context.Context, c Container) {
	if !c.HostConfig.AutoRemove || !c.over() || r.busy[c.ID] {
		return
	}
	r.busy[c.ID] = true
	go func() { r.done <- removal{c.ID, r.remove(ctx, c)} }()
}

// remove removes a container that has ended, in a few attempts.
func (r *remover) remove(ctx context.Context, c Container) error {
	for try := 1; ; try++ {
		err := r.s.removeEnded(ctx, c)
		if err == nil || ctx.Err() != nil {
			return err
		}
		r.s.log.Warn("cannot remove a container that has ended", "container", c.ID, "try", try, "err", err)
		if try == removeTries {
			return err
		}
		select {
		case <-time.After(removeRetry):
		case <-ctx.Done():
			return err
		}
	}
}
