package template

import (
	"context"
	"errors"
	"sync"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
)

// Run makes the templates that are wanted and keeps the warm pool, until ctx has ended and so has all that it began. First it
// takes care of what earlier controllers have left.
func (s *Store) Run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { s.observe(ctx) })
	s.reconcile(ctx)
	work.Go(func() { s.keepWarm(ctx) })
	for {
		jobs, changed := s.takeQueue()
		for _, j := range jobs {
			work.Go(func() { s.begin(ctx, j) })
		}
		select {
		case <-changed:
		case <-ctx.Done():
			s.abandonQueue()
			return
		}
	}
}

// takeQueue takes the jobs that nobody has begun.
func (s *Store) takeQueue() (jobs []*job, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	jobs, s.queue = s.queue, nil
	return jobs, s.changed
}

// begin runs a job in a context that Quiesce can end.
func (s *Store) begin(ctx context.Context, j *job) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	j.cancel = cancel
	closed := s.closed
	s.mu.Unlock()
	if closed {
		s.end(j, errStopped)
		return
	}
	s.run(ctx, j)
}

var errStopped = errors.New("the controller is being stopped")

// abandonQueue ends the jobs that were not begun.
func (s *Store) abandonQueue() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	jobs, _ := s.takeQueue()
	for _, j := range jobs {
		s.end(j, errStopped)
	}
}

// observe wakes those who wait when a template or a warm VM of the host has changed.
func (s *Store) observe(ctx context.Context) {
	ours := func(vm *vsphere.VM) bool {
		return vm != nil && (vm.Extra[record.KeyRole] == record.RoleTemplate || vm.Extra[record.KeyRole] == record.RoleWarm)
	}
	for e := range s.host.Subscribe(ctx) {
		if ours(e.Before) || ours(e.After) {
			s.mu.Lock()
			s.notifyLocked()
			s.mu.Unlock()
		}
	}
}

// reconcile removes the templates that are of no use, goes on with those that were being made, finds out when each was used
// last, and has the first template made.
func (s *Store) reconcile(ctx context.Context) {
	for _, vm := range s.host.VMs() {
		t, sound := parse(vm)
		switch {
		case t.Name == "":
			s.learnUse(vm)
		case !sound, !s.current(t), t.State == StateEnded, s.opt.Most == 0:
			s.log.Info("removing a template of an earlier time", "template", t.Name)
			if err := s.destroy(ctx, vm.Ref); err != nil {
				s.log.Warn("cannot remove a template", "template", t.Name, "err", err)
			}
		case t.State == StateMaking:
			s.mu.Lock()
			s.wantLocked(s.inputsOf(t.Size))
			s.mu.Unlock()
		}
	}
	s.makeRoom(ctx, s.opt.Most)
	s.wantFirst()
}

// wantFirst has the template of the usual size made.
func (s *Store) wantFirst() {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.inputsOf(s.opt.First)
	if vm, _ := s.host.Get(in.name()); s.opt.First != (Size{}) && s.unavailableLocked() == "" && !vm.Frozen {
		s.wantLocked(in)
	}
}

// learnUse finds out from a container when its template was used.
func (s *Store) learnUse(vm vsphere.VM) {
	source := Source(vm)
	if source == "" {
		return
	}
	made, err := record.DecodeContainer(vm.Extra[record.KeyContainer])
	if err != nil {
		return // a warm VM, or someone else's
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stateLocked(source)
	st.lastUse = later(st.lastUse, made.Created)
}

// Quiesce removes all templates and warm VMs, and makes no more: the host is about to be stopped.
func (s *Store) Quiesce(ctx context.Context) error {
	for _, j := range s.close() {
		select {
		case <-j.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := s.awaitIdle(ctx); err != nil {
		return err
	}
	var failed []error
	for _, vm := range s.host.VMs() {
		if role := vm.Extra[record.KeyRole]; role == record.RoleTemplate || role == record.RoleWarm {
			failed = append(failed, s.destroy(ctx, vm.Ref))
		}
	}
	return errors.Join(failed...)
}

// awaitIdle waits until no clone is being taken and nobody is at work on a child.
func (s *Store) awaitIdle(ctx context.Context) error {
	return s.await(ctx, func() bool {
		n := len(s.claimed)
		for _, st := range s.templates {
			n += st.leases
		}
		return n == 0
	})
}

// await waits until met, which is called with mu held, returns true.
func (s *Store) await(ctx context.Context, met func() bool) error {
	for {
		s.mu.Lock()
		ok, changed := met(), s.changed
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// close makes the store refuse leases and jobs, and cancels and returns the jobs in flight.
func (s *Store) close() []*job {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.notifyLocked()
	var jobs []*job
	for _, st := range s.templates {
		if st.job == nil {
			continue
		}
		if st.job.cancel != nil {
			st.job.cancel()
		}
		jobs = append(jobs, st.job)
	}
	return jobs
}
