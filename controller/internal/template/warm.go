package template

import (
	"context"
	"time"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
)

// fillRetry is the pause after a warm machine could not be made or removed.
const fillRetry = 5 * time.Second

// fill keeps the warm machines until ctx ends: as many as wanted of the template that was used last, none of others. It
// does one thing at a time, and nothing while a container is being made or started.
func (s *Store) fill(ctx context.Context) {
	for ctx.Err() == nil {
		do, changed := s.chore()
		if do == nil {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		if err := do(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("cannot keep machines warm", "error", err)
			select {
			case <-time.After(fillRetry):
			case <-ctx.Done():
			}
		}
	}
}

// chore chooses what is to be done next; nil: nothing until changed is closed.
func (s *Store) chore() (do func(context.Context) error, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy > 0 || s.closed {
		return nil, s.changed
	}
	latest := s.latest()
	kept := 0
	for _, vm := range s.warm() {
		if vm.PowerState == vsphere.PoweredOn && Source(vm) == latest && kept < s.opt.Warm && !s.late(vm) {
			kept++
			continue
		}
		done := s.claimLocked(vm.Name)
		delete(s.since, vm.Name)
		return func(ctx context.Context) error {
			defer done()
			return s.destroy(ctx, vm.Ref)
		}, s.changed
	}
	if latest == "" || kept >= s.opt.Warm {
		return nil, s.changed
	}
	h := s.holdFor(latest)
	if h == nil {
		return nil, s.changed
	}
	return func(ctx context.Context) error {
		defer h.Release()
		m, err := h.Spawn(ctx, true)
		if err == nil {
			m.Done()
		}
		return err
	}, s.changed
}

// late reports whether a warm machine should have been ready to be a container long ago; the caller holds mu.
func (s *Store) late(vm vsphere.VM) bool {
	if ready(vm) {
		delete(s.since, vm.Name)
		return false
	}
	if s.since[vm.Name].IsZero() {
		s.since[vm.Name] = time.Now()
	}
	return time.Since(s.since[vm.Name]) > s.opt.Timeout
}

// holdFor is hold for work ahead of time, which is no use of the template; the caller holds mu.
func (s *Store) holdFor(name string) *Held {
	last := s.use(name).last
	h := s.hold(name)
	s.use(name).last = last
	return h
}

// warm are the warm machines that no one has in hand; the caller holds mu.
func (s *Store) warm() []vsphere.VM {
	var all []vsphere.VM
	for _, vm := range s.host.VMs() {
		if vm.Extra[record.KeyRole] == record.RoleWarm && !s.claimed[vm.Name] {
			all = append(all, vm)
		}
	}
	return all
}

// latest is the name of the template that was used last, of those that are ready; the caller holds mu.
func (s *Store) latest() string {
	name, used := "", time.Time{}
	for _, vm := range s.host.VMs() {
		t, sound := parse(vm)
		if !sound || t.State != StateFrozen || !s.current(t) {
			continue
		}
		at := t.Created
		if u := s.uses[t.Name]; u != nil {
			at = later(at, u.last)
		}
		if name == "" || at.After(used) {
			name, used = t.Name, at
		}
	}
	return name
}

// Limits are how many templates and warm machines there may be.
func (s *Store) Limits() (templates, warm int) { return s.opt.Most, s.opt.Warm }

// Warm counts the warm machines that are ready to be a container.
func (s *Store) Warm() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, vm := range s.warm() {
		if ready(vm) {
			n++
		}
	}
	return n
}

// ready reports whether a warm machine has rehearsed and waits to be told who it is.
func ready(vm vsphere.VM) bool {
	return vm.PowerState == vsphere.PoweredOn && vm.Extra[link.KeyPhase] == link.PhaseWarm
}
