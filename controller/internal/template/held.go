package template

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/controller/internal/ident"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Held is a template that stays until Release, for a clone of it.
type Held struct {
	Name    string
	Release func()

	s  *Store
	vm vsphere.VM
}

// Use returns the template of a size, to be released, or why there is none at this moment; it is made then.
func (s *Store) Use(size Size) (h *Held, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if why := s.off(); why != "" {
		return nil, why
	}
	in := s.inputsOf(size)
	if h := s.hold(in.name()); h != nil {
		return h, ""
	}
	s.wantSoon(in)
	switch f := s.failed[in.name()]; {
	case s.jobs[in.name()] != nil:
		return nil, fmt.Sprintf("the template of %s is being made", size)
	case f != nil:
		why, _, _ := strings.Cut(f.err.Error(), "\n") // the console's end is in the log
		return nil, why
	default:
		return nil, fmt.Sprintf("there is no template of %s", size)
	}
}

// Wait is Use that waits for a template that has to be made, until ctx ends.
func (s *Store) Wait(ctx context.Context, size Size) (*Held, error) {
	in := s.inputsOf(size)
	for {
		s.mu.Lock()
		if why := s.off(); why != "" {
			s.mu.Unlock()
			return nil, errdefs.ErrFailedPrecondition.WithMessage(why)
		}
		if h := s.hold(in.name()); h != nil {
			s.mu.Unlock()
			return h, nil
		}
		j := s.want(in)
		s.mu.Unlock()
		select {
		case <-j.done:
			if j.err != nil {
				return nil, j.err
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("the template of %s is not ready: %w", size, ctx.Err())
		}
	}
}

// off says why there are no templates at all; empty: there may be.
func (s *Store) off() string {
	switch {
	case s.closed:
		return "the host is being stopped"
	case s.opt.Most == 0:
		return "templates are switched off (--templates 0)"
	case !s.host.CanClone():
		return "the host makes no instant clones: only a vCenter does"
	default:
		return ""
	}
}

// hold returns a template that is ready, or nil; the caller holds mu.
func (s *Store) hold(name string) *Held {
	vm, ok := s.host.Get(name)
	if t, sound := parse(vm); !ok || !sound || t.State != StateFrozen {
		return nil
	}
	u := s.use(name)
	if u.leaving || u.failures >= distrustAfter {
		return nil
	}
	u.clones++
	u.last = time.Now()
	return &Held{Name: name, s: s, vm: vm, Release: sync.OnceFunc(func() { s.release(u) })}
}

func (s *Store) release(u *use) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u.clones--
	s.notify()
}

// Own is what a clone gets for the sake of hosts whose clones have all of their source's extraConfig: none of what its guest
// has said, or was told, is true of the clone.
func Own() map[string]string {
	return map[string]string{
		record.KeyTemplate: "", link.KeySpec: "", link.KeyGate: "", link.KeyFork: "", link.KeyReceipt: "", link.KeyStatus: "", link.KeyPhase: "",
		link.KeyMACs: "", link.KeyRehearse: "",
	}
}

// Clone forks a machine that gets what extra says, over what the template has, and a delta of the disk root unless that is
// empty. It is not given up when the caller leaves: the machine would be nobody's.
func (h *Held) Clone(ctx context.Context, id string, extra map[string]string, root string) (vsphere.Ref, error) {
	fork, err := link.EncodeFork(&tetherv1.Fork{Generation: 1, Index: h.s.nextIndex(h.Name), Source: h.Name})
	if err != nil {
		return vsphere.Ref{}, err
	}
	all := Own()
	all[record.KeyRole], all[link.KeyFork] = record.RoleWarm, fork
	maps.Copy(all, extra)
	ref, err := h.s.host.InstantClone(context.WithoutCancel(ctx), h.vm.Ref, vsphere.CloneSpec{
		Name: id, UUID: ident.UUID(id), ExtraConfig: all, RootParent: root,
	})
	h.s.cloned(h.Name, err)
	return ref, err
}

// distrustAfter is after how many clones in a row that failed, for reasons that may be the template's, it is made anew: its state
// may be one that the host's emulator cannot load any more.
const distrustAfter = 3

// cloned counts the clones of a template that failed in a row.
func (s *Store) cloned(name string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.use(name)
	switch {
	case err == nil:
		u.failures = 0
	case errdefs.IsResourceExhausted(err), errdefs.IsInvalidArgument(err), errdefs.IsAlreadyExists(err), errdefs.IsFailedPrecondition(err):
		// the host's, the request's, or the template has ended already
	default:
		if u.failures++; u.failures == distrustAfter {
			s.log.Warn("a template is made anew: clones of it fail", "template", name, "clones", u.failures, "error", err)
		}
	}
}

// nextIndex numbers the children of a template.
func (s *Store) nextIndex(name string) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.use(name)
	if u.index == 0 {
		u.index = s.lastIndex(name)
	}
	u.index++
	return u.index
}

// Machine is one that was forked and waits to be told who it is. Done must be called when it has been, or is gone.
type Machine struct {
	VM   vsphere.VM
	Done func()
}

// Spawn forks a machine that waits to be told who it is. One that is made ahead of time rehearses first.
func (h *Held) Spawn(ctx context.Context, ahead bool) (Machine, error) {
	id := ident.New()
	done := h.s.claim(id)
	extra := map[string]string{}
	if ahead {
		extra[link.KeyRehearse] = "yes"
	}
	if _, err := h.Clone(ctx, id, extra, ""); err != nil {
		done()
		return Machine{}, err
	}
	vm, ok := h.s.host.Get(id)
	if !ok {
		done()
		return Machine{}, errors.New("the machine that was forked is gone already")
	}
	return Machine{VM: vm, Done: done}, nil
}

// claim keeps a machine from being taken or removed by others until done is called.
func (s *Store) claim(name string) (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.claimLocked(name)
}

func (s *Store) claimLocked(name string) (done func()) {
	s.claimed[name] = true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.claimed, name)
		delete(s.since, name)
		s.notify()
	}
}

// Warm takes a machine that was forked from the template ahead of time; false: there is none.
func (h *Held) Warm() (Machine, bool) {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	for _, vm := range h.s.warm() {
		if Source(vm) == h.Name && ready(vm) {
			return Machine{VM: vm, Done: h.s.claimLocked(vm.Name)}, true
		}
	}
	return Machine{}, false
}

// Discard removes a machine that nobody will be.
func (h *Held) Discard(ctx context.Context, m Machine) error {
	return h.s.destroy(context.WithoutCancel(ctx), m.VM.Ref)
}
