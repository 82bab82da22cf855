package volume

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
)

// Remove removes a volume that no container has, also one that does not run.
func (s *Service) Remove(ctx context.Context, name string, users Users) error {
	unlock := s.names.lock(name)
	defer unlock()
	if _, err := s.Get(name); err != nil {
		return err
	}
	return s.removeUnused(context.WithoutCancel(ctx), name, users)
}

// removeUnused removes a volume, pending or not, that nobody has. The caller has the lock of its name.
func (s *Service) removeUnused(ctx context.Context, name string, users Users) error {
	if s.isHeld(name) { // asked first: whoever lets go of it has it from then on in the eyes of users
		return InUse(name, users(name))
	}
	if have := users(name); len(have) > 0 {
		return InUse(name, have)
	}
	if err := s.setPending(ctx, true, name); err != nil {
		return wrap("remove", name, err)
	}
	if err := s.drop(ctx, name); err != nil {
		return wrap("remove", name, errors.Join(err, s.keep(ctx, name)))
	}
	s.tell(events.ActionDestroy, name)
	return nil
}

// keep makes a volume that could not be removed one as others again, if its disk is there still. Else it stays pending.
func (s *Service) keep(ctx context.Context, name string) error {
	if id := s.index.Read().Volumes[name].ID; id != "" {
		if _, err := s.host.Stat(ctx, diskPath(id)); err != nil {
			return nil // gone, or nobody can say
		}
	}
	return s.setPending(ctx, false, name)
}

func (s *Service) isHeld(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held[name] > 0
}

// drop removes a pending volume's disk, and then what is known of it. The caller has the lock of its name.
func (s *Service) drop(ctx context.Context, name string) error {
	e, ok := s.index.Read().Volumes[name]
	if !ok {
		return nil
	}
	if e.ID != "" {
		if err := s.host.DeleteDisk(ctx, diskPath(e.ID)); err != nil {
			return err
		}
	}
	return s.index.Commit(ctx, func(x *index) error {
		delete(x.Volumes, name)
		return nil
	})
}

// Doom says that a container is being removed together with volumes of its own: should the controller die meanwhile, they go when the
// container is gone. Doomed must be called when the removal has ended.
func (s *Service) Doom(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	return s.setPending(context.WithoutCancel(ctx), true, names...)
}

// Doomed ends a removal of a container: doomed volumes that nobody has are removed, others stay.
func (s *Service) Doomed(ctx context.Context, names []string, users Users) error {
	ctx = context.WithoutCancel(ctx)
	var failed []error
	for _, name := range names {
		unlock := s.names.lock(name)
		_, exists := s.index.Read().Volumes[name]
		var err error
		if exists {
			if err = s.removeUnused(ctx, name, users); errdefs.IsConflict(err) {
				err = s.setPending(ctx, false, name)
			}
		}
		unlock()
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// Report is what a prune removed.
type Report struct {
	Names []string
	Bytes uint64 // of the datastore, freed
}

// Prune removes the volumes that nobody has, that have no options, as in Docker, and that match. A volume that cannot be removed is left.
func (s *Service) Prune(ctx context.Context, match func(Volume) bool, users Users) (Report, error) {
	select {
	case s.pruned <- struct{}{}:
		defer func() { <-s.pruned }()
	default:
		return Report{}, errdefs.ErrConflict.WithMessage("a prune operation is already running")
	}
	report := Report{Names: []string{}}
	for _, v := range s.List() {
		if ctx.Err() != nil {
			break
		}
		if len(v.Options) > 0 || !match(v) || len(users(v.Name)) > 0 {
			continue
		}
		size := s.DiskUse(ctx, v)
		if err := s.Remove(ctx, v.Name, users); err != nil {
			if !errdefs.IsConflict(err) && !errdefs.IsNotFound(err) {
				s.log.Warn("cannot remove a volume", "volume", v.Name, "err", err)
			}
			continue
		}
		report.Names = append(report.Names, v.Name)
		report.Bytes += uint64(max(0, size))
	}
	s.tellPruned(report.Bytes)
	return report, nil
}
