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

// Lease is the right to clone a template, which is not removed until Release.
type Lease struct {
	Name    string // of the template
	Release func() // may be called again

	s  *Store
	vm vsphere.VM
}

// Lease returns a lease of the template of a size; nil: there is none now, why says so, and it is made.
func (s *Store) Lease(size Size) (l *Lease, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if why := s.unavailableLocked(); why != "" {
		return nil, why
	}
	in := s.inputsOf(size)
	if l := s.leaseLocked(in.name()); l != nil {
		return l, ""
	}
	s.wantSoonLocked(in)
	switch st := s.stateLocked(in.name()); {
	case st.job != nil:
		return nil, fmt.Sprintf("the template of %s is being made", size)
	case st.failure != nil:
		why, _, _ := strings.Cut(st.failure.err.Error(), "\n") // the console's end is in the log
		return nil, why
	default:
		return nil, fmt.Sprintf("there is no template of %s", size)
	}
}

// AwaitLease is Lease that waits for a template that has to be made, until ctx ends. The error is of class
// errdefs.ErrFailedPrecondition when there are no templates at all.
func (s *Store) AwaitLease(ctx context.Context, size Size) (*Lease, error) {
	in := s.inputsOf(size)
	for {
		l, j, err := s.leaseOrJob(in)
		if j == nil {
			return l, err
		}
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

// leaseOrJob returns a lease, or the job to wait for first.
func (s *Store) leaseOrJob(in inputs) (*Lease, *job, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if why := s.unavailableLocked(); why != "" {
		return nil, nil, errdefs.ErrFailedPrecondition.WithMessage(why)
	}
	if l := s.leaseLocked(in.name()); l != nil {
		return l, nil, nil
	}
	return nil, s.wantLocked(in), nil
}

// unavailableLocked says why there are no templates at all; empty: there may be.
func (s *Store) unavailableLocked() string {
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

// leaseLocked returns a lease of a template; nil: it is not there, not frozen yet, being removed, or to be made anew.
func (s *Store) leaseLocked(name string) *Lease {
	vm, ok := s.host.Get(name)
	if t, sound := parse(vm); !ok || !sound || t.State != StateFrozen {
		return nil
	}
	st := s.stateLocked(name)
	if st.removing || st.failures >= unfitAfter {
		return nil
	}
	st.leases++
	st.lastUse = time.Now()
	return &Lease{Name: name, s: s, vm: vm, Release: sync.OnceFunc(func() { s.release(st) })}
}

func (s *Store) release(st *state) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.leases--
	s.notifyLocked()
}

// Clone makes a child of the template with the name id, a container's, the extraConfig extra and these network cards. root is the
// datastore path of the disk that its disk is a delta of; empty: it has none. It goes on when ctx ends: else the child might exist but
// its reference be unknown here.
func (l *Lease) Clone(ctx context.Context, id string, extra map[string]string, root string, cards []vsphere.Card) (vsphere.Ref, error) {
	fork, err := link.EncodeFork(&tetherv1.Fork{Generation: 1, Index: l.s.nextIndex(l.Name), Source: l.Name})
	if err != nil {
		return vsphere.Ref{}, err
	}
	all := map[string]string{record.KeyRole: record.RoleWarm, link.KeyFork: fork}
	maps.Copy(all, extra)
	ref, err := l.s.host.InstantClone(context.WithoutCancel(ctx), l.vm.Ref, vsphere.CloneSpec{
		Name: id, UUID: ident.UUID(id), ExtraConfig: all, RootParent: root, Cards: vsphere.CardChange{From: ownCards(), To: cards},
	})
	l.s.countFailures(l.Name, err)
	return ref, err
}

// unfitAfter is how many clones in a row must fail, for reasons that may be the template's, until it is made anew: its state may
// be one that the host's emulator cannot load any more.
const unfitAfter = 3

// countFailures counts the clones of a template that failed in a row; err is the outcome of the latest.
func (s *Store) countFailures(name string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stateLocked(name)
	switch {
	case err == nil:
		st.failures = 0
	case errdefs.IsResourceExhausted(err), errdefs.IsInvalidArgument(err), errdefs.IsAlreadyExists(err), errdefs.IsFailedPrecondition(err):
		// the host's, the request's, or the template has ended already
	default:
		if st.failures++; st.failures == unfitAfter {
			s.log.Warn("a template is made anew: clones of it fail", "template", name, "clones", st.failures, "err", err)
		}
	}
}

// nextIndex numbers the children of a template.
func (s *Store) nextIndex(name string) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stateLocked(name)
	if st.lastIndex == 0 {
		st.lastIndex = s.highestIndex(name)
	}
	st.lastIndex++
	return st.lastIndex
}

// Child is a child of a template that has no container yet and that nobody else takes or removes until Release.
type Child struct {
	VM      vsphere.VM
	Release func()
}

// Fork makes a child without a container, with the role of a warm VM and these network cards. It does not rehearse.
func (l *Lease) Fork(ctx context.Context, cards []vsphere.Card) (Child, error) {
	return l.fork(ctx, ident.New(), map[string]string{}, cards)
}

func (l *Lease) fork(ctx context.Context, id string, extra map[string]string, cards []vsphere.Card) (Child, error) {
	release := l.s.claim(id)
	if _, err := l.Clone(ctx, id, extra, "", cards); err != nil {
		release()
		return Child{}, err
	}
	vm, ok := l.s.host.Get(id)
	if !ok {
		release()
		return Child{}, errors.New("the machine that was forked is gone already")
	}
	return Child{VM: vm, Release: release}, nil
}

// TakeWarm takes a warm VM of the template out of the warm pool; false: there is none that has rehearsed.
func (l *Lease) TakeWarm() (Child, bool) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	for _, vm := range l.s.warmLocked() {
		if Source(vm) == l.Name && ready(vm) {
			return Child{VM: vm, Release: l.s.claimLocked(vm.Name)}, true
		}
	}
	return Child{}, false
}

// Discard removes a child, also when ctx has ended.
func (l *Lease) Discard(ctx context.Context, c Child) error {
	return l.s.destroy(context.WithoutCancel(ctx), c.VM.Ref)
}

// claim keeps a child from being taken or removed by others until release is called.
func (s *Store) claim(name string) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.claimLocked(name)
}

func (s *Store) claimLocked(name string) (release func()) {
	s.claimed[name] = true
	delete(s.unready, name)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.claimed, name)
		s.notifyLocked()
	}
}
