package template

import (
	"context"
	"errors"
	"sync"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
)

// Run makes the templates that are wanted and keeps the warm machines, until ctx ends and all that it began has. It begins
// with what earlier controllers have left.
func (s *Store) Run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { s.observe(ctx) })
	s.reconcile(ctx)
	work.Go(func() { s.fill(ctx) })
	for {
		jobs, changed := s.next()
		for _, j := range jobs {
			work.Go(func() { s.begin(ctx, j) })
		}
		select {
		case <-changed:
		case <-ctx.Done():
			s.giveUp()
			return
		}
	}
}

// next takes the jobs that nobody has begun.
func (s *Store) next() (jobs []*job, changed <-chan struct{}) {
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

// giveUp ends the jobs that were not begun.
func (s *Store) giveUp() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	jobs, _ := s.next()
	for _, j := range jobs {
		s.end(j, errStopped)
	}
}

// observe wakes those who wait when a template or a warm machine of the host has changed.
func (s *Store) observe(ctx context.Context) {
	ours := func(vm *vsphere.VM) bool {
		return vm != nil && (vm.Extra[record.KeyRole] == record.RoleTemplate || vm.Extra[record.KeyRole] == record.RoleWarm)
	}
	for e := range s.host.Subscribe(ctx) {
		if ours(e.Before) || ours(e.After) {
			s.mu.Lock()
			s.notify()
			s.mu.Unlock()
		}
	}
}

// reconcile removes templates that are of no use, goes on with those that were being made, learns who was used when, and
// begins the first template.
func (s *Store) reconcile(ctx context.Context) {
	for _, vm := range s.host.VMs() {
		t, sound := parse(vm)
		switch {
		case t.Name == "":
			s.recall(vm)
		case !sound, !s.current(t), t.State == StateEnded, s.opt.Most == 0:
			s.log.Info("removing a template of an earlier time", "template", t.Name)
			if err := s.destroy(ctx, vm.Ref); err != nil {
				s.log.Warn("cannot remove a template", "template", t.Name, "error", err)
			}
		case t.State == StateMaking:
			s.mu.Lock()
			s.want(s.inputsOf(t.Size))
			s.mu.Unlock()
		}
	}
	s.makeRoom(ctx, s.opt.Most)
	s.first()
}

// first begins the template of the usual size.
func (s *Store) first() {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.inputsOf(s.opt.First)
	if vm, _ := s.host.Get(in.name()); s.opt.First != (Size{}) && s.off() == "" && !vm.Frozen {
		s.want(in)
	}
}

// recall learns from a container when its template was used.
func (s *Store) recall(vm vsphere.VM) {
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
	u := s.use(source)
	u.last = later(u.last, made.Created)
}

// Quiesce removes all templates and warm machines, and makes no more: the host is about to be stopped, and nothing of it is
// to go on.
func (s *Store) Quiesce(ctx context.Context) error {
	for _, j := range s.close() {
		select {
		case <-j.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := s.calm(ctx); err != nil {
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

// calm waits until no clone is being taken and no machine is in anyone's hand.
func (s *Store) calm(ctx context.Context) error {
	for {
		s.mu.Lock()
		clones, changed := len(s.claimed), s.changed
		for _, u := range s.uses {
			clones += u.clones
		}
		s.mu.Unlock()
		if clones == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// close ends the jobs under way and returns them.
func (s *Store) close() []*job {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.notify()
	var jobs []*job
	for _, j := range s.jobs {
		if j.cancel != nil {
			j.cancel()
		}
		jobs = append(jobs, j)
	}
	return jobs
}
