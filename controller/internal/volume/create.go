package volume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"github.com/containervm/containervm/controller/internal/ident"
)

// Request says what volume is wanted.
type Request struct {
	Name    string // empty: a new one gets a name that nobody has
	Driver  string // empty: the only one
	Options map[string]string
	Labels  map[string]string
}

// Check refuses what cannot be a volume, in Docker's words.
func (r Request) Check() error {
	if err := CheckDriver(r.Driver); err != nil {
		return wrap("create", r.Name, err)
	}
	if r.Name != "" {
		if err := CheckName(r.Name); err != nil {
			return wrap("create", r.Name, err)
		}
	}
	size := 0
	for k, v := range r.Labels {
		size += len(k) + len(v)
	}
	if size > maxLabels {
		return wrap("create", r.Name, invalid("the labels have %d bytes, at most %d are possible", size, maxLabels))
	}
	_, err := ParseOptions(r.Options)
	return wrap("create", r.Name, err)
}

// wrap says in Docker's way what could not be done with a volume; nil stays nil.
func wrap(operation, name string, err error) error {
	if err == nil {
		return nil
	}
	if name == "" {
		return fmt.Errorf("%s: %w", operation, err)
	}
	return fmt.Errorf("%s %s: %w", operation, name, err)
}

// Create makes a volume. One of that name that exists is the volume, whatever its options and labels.
func (s *Service) Create(ctx context.Context, r Request) (Volume, error) {
	h := s.Hold()
	defer h.Release()
	v, err := h.get(ctx, r, false)
	return v, err
}

// Hold keeps volumes for a container that is being made: they are not removed until Release, and those that are made without a name stay
// only after Keep. Its methods are not to be called at the same time.
type Hold struct {
	s         *Service
	names     []string // held
	anonymous []string // of those, the ones that were made for the container
}

// Hold returns a Hold of no volume yet. Release must be called.
func (s *Service) Hold() *Hold { return &Hold{s: s} }

// Get returns the volume that is wanted, and makes it if there is none. One without a name is pending until Keep.
func (h *Hold) Get(ctx context.Context, r Request) (Volume, error) { return h.get(ctx, r, true) }

func (h *Hold) get(ctx context.Context, r Request, forContainer bool) (Volume, error) {
	if err := r.Check(); err != nil {
		return Volume{}, err
	}
	anonymous := r.Name == ""
	if anonymous {
		r.Name, r.Labels = ident.New(), withLabel(r.Labels, AnonymousLabel, "")
	}
	unlock := h.s.names.lock(r.Name)
	defer unlock()
	v, err := h.s.Get(r.Name)
	if errdefs.IsNotFound(err) {
		v, err = h.s.make(context.WithoutCancel(ctx), r, anonymous && forContainer)
	}
	if err != nil {
		return Volume{}, wrap("create", r.Name, err)
	}
	h.s.hold(r.Name, 1)
	h.names = append(h.names, r.Name)
	if anonymous && forContainer {
		h.anonymous = append(h.anonymous, r.Name)
	}
	return v, nil
}

// Have holds a volume that exists.
func (h *Hold) Have(name string) (Volume, error) {
	unlock := h.s.names.lock(name)
	defer unlock()
	v, err := h.s.Get(name)
	if err != nil {
		return v, err
	}
	h.s.hold(name, 1)
	h.names = append(h.names, name)
	return v, nil
}

// Keep says that the container exists, and has its volumes.
func (h *Hold) Keep(ctx context.Context) error {
	if len(h.anonymous) == 0 {
		return nil
	}
	names := h.anonymous
	h.anonymous = nil
	return h.s.setPending(context.WithoutCancel(ctx), false, names...)
}

// Release ends the hold. Without a Keep the volumes without a name that were made go: there is no container that has them.
func (h *Hold) Release() {
	for _, name := range h.names {
		h.s.hold(name, -1)
	}
	for _, name := range h.anonymous {
		unlock := h.s.names.lock(name)
		if err := h.s.drop(context.Background(), name); err != nil {
			h.s.log.Error("a volume is left behind until the next start", "volume", name, "err", err)
		}
		unlock()
	}
	h.names, h.anonymous = nil, nil
}

func (s *Service) hold(name string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[name] += n; s.held[name] == 0 {
		delete(s.held, name)
	}
}

// make makes a volume that does not exist. The caller has the lock of its name.
func (s *Service) make(ctx context.Context, r Request, pending bool) (Volume, error) {
	place, err := ParseOptions(r.Options)
	if err != nil {
		return Volume{}, err
	}
	if err := s.clear(ctx, r.Name); err != nil {
		return Volume{}, err
	}
	e := entry{Created: time.Now().UTC(), Labels: r.Labels, Options: r.Options, Pending: pending}
	if place.Kind == KindDisk {
		if s.host.Boot().Volume == "" {
			return Volume{}, errdefs.ErrNotImplemented.WithMessage(
				"the host has no disk that volumes could be copies of (\"volume\" in cvm/boot/current.json): volumes of type nfs and tmpfs are possible")
		}
		e.ID, e.Size, e.Pending = ident.New()[:32], place.Size, true
	}
	if err := s.put(ctx, r.Name, e); err != nil {
		return Volume{}, err
	}
	if e.ID != "" {
		if err := s.makeDisk(ctx, e); err != nil {
			return Volume{}, errors.Join(err, s.drop(ctx, r.Name))
		}
		if e.Pending = pending; !pending {
			if err := s.setPending(ctx, false, r.Name); err != nil {
				return Volume{}, err
			}
		}
	}
	s.tell(events.ActionCreate, r.Name)
	return volumeOf(r.Name, e, s.host.DatastorePath), nil
}

// clear removes what is left of an earlier volume of a name, whose removal failed. The caller has the lock of the name.
func (s *Service) clear(ctx context.Context, name string) error {
	e, ok := s.index.Read().Volumes[name]
	if !ok {
		return nil
	}
	if _, anonymous := e.Labels[AnonymousLabel]; anonymous {
		return errdefs.ErrConflict.WithMessage("a volume of that name is being made or removed together with its container")
	}
	return s.drop(ctx, name)
}

func (s *Service) put(ctx context.Context, name string, e entry) error {
	return s.index.Commit(ctx, func(x *index) error {
		x.Volumes[name] = e
		return nil
	})
}

func (s *Service) makeDisk(ctx context.Context, e entry) error {
	if err := s.host.CopyDisk(ctx, s.host.Boot().Volume, diskPath(e.ID)); err != nil {
		return err
	}
	if err := s.host.ExtendDisk(ctx, diskPath(e.ID), e.Size); err != nil {
		return fmt.Errorf("%w (a volume cannot be smaller than an empty one, %s)", err, s.host.Boot().Volume)
	}
	return nil
}
