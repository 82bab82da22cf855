package container

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
)

// RemoveOptions say how a container is removed.
type RemoveOptions struct {
	Force   bool // also one that runs: it is ended at once
	Volumes bool // the volumes without a name that were made for it go with it
}

// Remove destroys a container. With Force whoever brings it up at the moment gives way, and one that runs is ended.
func (s *Service) Remove(ctx context.Context, ref string, opt RemoveOptions) error {
	c, err := s.Get(ref)
	if err != nil {
		return err
	}
	if err := c.mayRemove(); err != nil && !opt.Force {
		return err
	}
	kind := toStart
	if opt.Force {
		kind = toRemove
	}
	op, err := s.starts.acquire(ctx, c.ID, kind)
	if errdefs.IsConflict(err) { // someone else removes it
		return errdefs.ErrConflict.WithMessage("removal of container " + c.Name + " is already in progress")
	}
	if err != nil {
		return err
	}
	defer op.release()
	c, err = s.Get(c.ID)
	switch {
	case errdefs.IsNotFound(err):
		return nil // someone else was faster
	case err != nil:
		return err
	}
	if err := c.mayRemove(); err != nil && !opt.Force {
		return err
	}
	if err := s.remove(context.WithoutCancel(ctx), op, c, opt.Volumes); err != nil {
		return fmt.Errorf("cannot remove container %q: %w", "/"+c.Name, err)
	}
	return nil
}

// mayRemove says in Docker's words why a container is not removed without force.
func (c *Container) mayRemove() error {
	what := "stop the container before removing or force remove"
	switch {
	case !c.Active():
		return nil
	case c.State() == container.StatePaused:
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("cannot remove container %q: container is paused and must be unpaused first", "/"+c.Name))
	default:
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("cannot remove container %q: container is %s: %s", "/"+c.Name, c.stateBefore(), what))
	}
}

// stateBefore is the container's state without regard to a removal.
func (c *Container) stateBefore() container.ContainerState {
	now := *c
	now.doomed = false
	return now.State()
}

// remove ends the machine if it runs and destroys it, with its own volumes if that is asked for, in an operation that keeps others from
// starting it. One that is gone is no error.
func (s *Service) remove(ctx context.Context, op *operation, c Container, volumes bool) (err error) {
	op.becomeRemoval()
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
		if err := s.powerOff(c.at(now)); err != nil {
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
	op, err := s.starts.acquire(ctx, c.ID, toStart)
	if errdefs.IsConflict(err) {
		return nil // someone removes it
	}
	if err != nil {
		return err
	}
	defer op.release()
	if vm, ok := s.host.Get(c.ID); ok {
		if c = c.at(vm); !c.over() {
			return nil // started again meanwhile
		}
	}
	return s.remove(ctx, op, c, true)
}

// Pruned is what a prune of containers removed.
type Pruned struct {
	IDs   []string
	Bytes int64 // of the datastore, freed
}

// Prune removes all containers that do not run and that match. One that cannot be removed, or is started meanwhile, is left. A client that
// leaves ends it.
func (s *Service) Prune(ctx context.Context, match func(Container) bool) (Pruned, error) {
	select {
	case s.pruning <- struct{}{}:
		defer func() { <-s.pruning }()
	default:
		return Pruned{}, errdefs.ErrConflict.WithMessage("a prune operation is already running")
	}
	p := Pruned{IDs: []string{}}
	for _, c := range s.All() {
		if ctx.Err() != nil {
			break
		}
		if c.Active() || c.doomed || !match(c) {
			continue
		}
		own, _, err := s.DiskUse(ctx, c)
		if err != nil {
			own = 0 // it is gone, or nobody can say
		}
		err = s.Remove(ctx, c.ID, RemoveOptions{})
		switch {
		case err == nil:
			p.IDs, p.Bytes = append(p.IDs, c.ID), p.Bytes+own
		case !errdefs.IsConflict(err) && !errdefs.IsNotFound(err):
			s.log.Warn("cannot remove a container", "container", c.ID, "err", err)
		}
	}
	s.teller.tell(s.host.Seq(), events.Message{
		Type: events.ContainerEventType, Action: events.ActionPrune,
		Actor: events.Actor{Attributes: map[string]string{"reclaimed": strconv.FormatInt(p.Bytes, 10)}},
	})
	return p, nil
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
