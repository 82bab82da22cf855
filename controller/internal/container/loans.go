package container

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/controller/internal/record"
)

// TakeBack ends the use of a container's disks by someone else, and returns when it has ended. grace: it may wait a while for what is being
// done with them.
type TakeBack func(ctx context.Context, grace bool)

// loans are the disks of containers that do not run and that another machine has, by container. A container's machine and that one exclude
// each other: before the container is started, forked or removed its disks are taken back.
type loans struct {
	mu   sync.Mutex
	lent map[string]TakeBack
}

// Lend gives the disks of a container that does not run to whom take starts. No start of the container is in flight meanwhile, and a machine
// that waits at its gate is ended before; it boots when it is started. take may find that it needs them no more, and return nil. The error is
// of class errdefs.ErrNotModified when the container runs.
func (s *Service) Lend(ctx context.Context, id string, take func(context.Context, Container) (TakeBack, error)) error {
	release, err := s.AcquireStart(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	c, err := s.Get(id)
	if err != nil {
		return err
	}
	switch {
	case c.Running():
		if c.Phase() == PhaseRunning {
			return errdefs.ErrNotModified.WithMessage("container already started")
		}
		if _, err := s.host.Wait(ctx, c.VM.Ref, isOff); err != nil { // its process has ended, and the machine is about to
			return err
		}
	case c.Phase() == PhaseParked:
		if err := s.powerOff(c); err != nil {
			return err
		}
	}
	if c, err = s.Get(id); err != nil {
		return err
	}
	s.takeBackShared(ctx, c)
	back, err := take(ctx, c)
	if err != nil {
		return s.diskInUse(&c, err)
	}
	if back == nil {
		return nil
	}
	s.loans.mu.Lock()
	defer s.loans.mu.Unlock()
	if s.loans.lent == nil {
		s.loans.lent = map[string]TakeBack{}
	}
	s.loans.lent[id] = back
	return nil
}

// Returned says that a container's disks are its own again.
func (s *Service) Returned(id string) {
	s.loans.mu.Lock()
	defer s.loans.mu.Unlock()
	delete(s.loans.lent, id)
}

// takeBackShared ends the loans of other containers that share a volume with one: one machine writes it at a time.
func (s *Service) takeBackShared(ctx context.Context, c Container) {
	s.loans.mu.Lock()
	ids := slices.Collect(maps.Keys(s.loans.lent))
	s.loans.mu.Unlock()
	for _, id := range ids {
		if other, err := s.Get(id); err == nil && id != c.ID && shareDisk(&c, &other) {
			s.takeBack(ctx, id, true)
		}
	}
}

// shareDisk reports whether two containers have a volume's disk that one of them writes.
func shareDisk(a, b *Container) bool {
	return slices.ContainsFunc(a.Mounts, func(m record.Mount) bool {
		return m.Disk != nil && slices.ContainsFunc(b.Mounts, func(o record.Mount) bool {
			return o.Disk != nil && o.Disk.Path == m.Disk.Path && !(o.Disk.ReadOnly && m.Disk.ReadOnly)
		})
	})
}

// takeBack ends the loan of a container's disks, if there is one.
func (s *Service) takeBack(ctx context.Context, id string, grace bool) {
	s.loans.mu.Lock()
	back := s.loans.lent[id]
	s.loans.mu.Unlock()
	if back != nil {
		back(ctx, grace)
	}
}
