package template

import (
	"context"
	"time"

	"github.com/containervm/containervm/controller/internal/ident"
	"github.com/containervm/containervm/controller/internal/network"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// warmRetry is the pause after a warm VM could not be made or removed.
const warmRetry = 5 * time.Second

// keepWarm keeps the warm pool until ctx ends: as many warm VMs as wanted of the template that was used last, none of others.
// It makes or removes one at a time, and none while a container is being made or started.
func (s *Store) keepWarm(ctx context.Context) {
	for ctx.Err() == nil {
		do, changed := s.nextStep()
		if do == nil {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		if err := do(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("cannot keep the warm pool", "err", err)
			select {
			case <-time.After(warmRetry):
			case <-ctx.Done():
			}
		}
	}
}

// nextStep chooses what is to be done next; nil: nothing until changed is closed.
func (s *Store) nextStep() (do func(context.Context) error, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy > 0 || s.closed {
		return nil, s.changed
	}
	latest := s.latestLocked()
	kept := 0
	for _, vm := range s.warmLocked() {
		if vm.PowerState == vsphere.PoweredOn && Source(vm) == latest && kept < s.opt.Warm && !s.overdueLocked(vm) {
			kept++
			continue
		}
		done := s.claimLocked(vm.Name)
		return func(ctx context.Context) error {
			defer done()
			return s.destroy(ctx, vm.Ref)
		}, s.changed
	}
	if latest == "" || kept >= s.opt.Warm {
		return nil, s.changed
	}
	l := s.leaseAheadLocked(latest)
	if l == nil {
		return nil, s.changed
	}
	return func(ctx context.Context) error {
		defer l.Release()
		return l.forkWarm(ctx)
	}, s.changed
}

// forkWarm makes a warm VM. It has an address already, which it rehearses with, so that a container that is to be in that network changes
// nothing of it.
func (l *Lease) forkWarm(ctx context.Context) error {
	id, extra, cards := ident.New(), map[string]string{link.KeyRehearse: "yes"}, ownCards()
	if l.s.opt.Networks != nil {
		at, release, err := l.s.opt.Networks.Reserve(nil, network.Want{})
		if err != nil {
			return err
		}
		defer release()
		cards = network.Cards(at)
		if extra[record.KeyNetworks], err = record.EncodeNetworks(at); err != nil {
			return err
		}
		if extra[link.KeyRehearse], err = link.EncodeSpec(&tetherv1.Spec{Id: id, Interfaces: network.Interfaces(at)}); err != nil {
			return err
		}
	}
	child, err := l.fork(ctx, id, extra, cards)
	if err == nil {
		child.Release()
	}
	return err
}

// overdueLocked reports whether a warm VM should have rehearsed long ago.
func (s *Store) overdueLocked(vm vsphere.VM) bool {
	if ready(vm) {
		delete(s.unready, vm.Name)
		return false
	}
	if s.unready[vm.Name].IsZero() {
		s.unready[vm.Name] = time.Now()
	}
	return time.Since(s.unready[vm.Name]) > s.opt.Timeout
}

// leaseAheadLocked is leaseLocked for a warm VM, which does not count as a use of the template.
func (s *Store) leaseAheadLocked(name string) *Lease {
	lastUse := s.stateLocked(name).lastUse
	l := s.leaseLocked(name)
	s.stateLocked(name).lastUse = lastUse
	return l
}

// warmLocked are the warm VMs that nobody is at work on.
func (s *Store) warmLocked() []vsphere.VM {
	var all []vsphere.VM
	for _, vm := range s.host.VMs() {
		if vm.Extra[record.KeyRole] == record.RoleWarm && !s.claimed[vm.Name] {
			all = append(all, vm)
		}
	}
	return all
}

// latestLocked is the name of the template that was used last, of those that are frozen and made of the present boot files.
func (s *Store) latestLocked() string {
	name, used := "", time.Time{}
	for _, vm := range s.host.VMs() {
		t, sound := parse(vm)
		if !sound || t.State != StateFrozen || !s.current(t) {
			continue
		}
		at := later(t.Created, s.stateLocked(t.Name).lastUse)
		if name == "" || at.After(used) {
			name, used = t.Name, at
		}
	}
	return name
}

// Limits are how many templates and warm VMs there may be.
func (s *Store) Limits() (templates, warm int) { return s.opt.Most, s.opt.Warm }

// Warm counts the warm VMs that have rehearsed and nobody is at work on.
func (s *Store) Warm() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, vm := range s.warmLocked() {
		if ready(vm) {
			n++
		}
	}
	return n
}

// ready reports whether a warm VM has rehearsed and waits for its Spec.
func ready(vm vsphere.VM) bool {
	return vm.PowerState == vsphere.PoweredOn && vm.Extra[link.KeyPhase] == link.PhaseWarm
}
