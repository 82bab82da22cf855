package template

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// job makes a template: it waits in Store.queue, then runs.
type job struct {
	in     inputs
	cancel context.CancelFunc // nil until it runs
	done   chan struct{}      // closed when err is set
	err    error
}

// failure is a template that could not be made.
type failure struct {
	err   error
	pause time.Duration
	until time.Time // before that it is not tried again unless someone waits for it
}

// Pauses between attempts that nobody waits for.
const (
	pauseFirst = 2 * time.Second
	pauseMost  = 2 * time.Minute
)

// wantLocked has a template made unless it is being made already, and returns the job.
func (s *Store) wantLocked(in inputs) *job {
	st := s.stateLocked(in.name())
	if st.job == nil {
		st.job = &job{in: in, done: make(chan struct{})}
		s.queue = append(s.queue, st.job)
		s.notifyLocked()
	}
	return st.job
}

// wantSoonLocked is wantLocked for what nobody waits for: not soon after a failure.
func (s *Store) wantSoonLocked(in inputs) {
	if f := s.stateLocked(in.name()).failure; f == nil || time.Now().After(f.until) {
		s.wantLocked(in)
	}
}

// end ends a job, and tells those who wait for it.
func (s *Store) end(j *job, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stateLocked(j.in.name())
	st.job = nil
	if err == nil {
		st.failure, st.failures = nil, 0
	} else {
		pause := pauseFirst
		if st.failure != nil {
			pause = min(2*st.failure.pause, pauseMost)
		}
		st.failure = &failure{err: err, pause: pause, until: time.Now().Add(pause)}
	}
	j.err = err
	close(j.done)
	s.notifyLocked()
}

// run makes a template, and removes others if there are too many then.
func (s *Store) run(ctx context.Context, j *job) {
	err := s.build(ctx, j.in)
	if err != nil {
		err = fmt.Errorf("cannot make the template of %s: %w", j.in.size(), err)
		if ctx.Err() == nil {
			s.log.Error("containers boot as long as there is no template of their size", "template", j.in.name(), "err", err)
		}
	}
	s.end(j, err)
	s.makeRoom(ctx, s.opt.Most)
}

// build makes a template, or goes on with one that an earlier controller began. One that fails is removed, but not when ctx
// ends: the next controller goes on with it.
func (s *Store) build(ctx context.Context, in inputs) error {
	if err := s.awaitRemoval(ctx, in.name()); err != nil {
		return err
	}
	vm, ok := s.host.Get(in.name())
	if ok && (vm.PowerState != vsphere.PoweredOn || s.unfit(in.name())) {
		if err := s.destroy(ctx, vm.Ref); err != nil {
			return err
		}
		ok = false
	}
	ref := vm.Ref
	if !ok {
		s.makeRoom(ctx, s.opt.Most-1)
		var err error
		if ref, err = s.create(ctx, in); err != nil {
			return err
		}
	}
	err := s.awaitFrozen(ctx, in.name(), ref)
	if err != nil && ctx.Err() == nil {
		err = errors.Join(err, s.destroy(context.WithoutCancel(ctx), ref))
	}
	return err
}

// unfit reports whether so many clones of a template failed that it is to be made anew.
func (s *Store) unfit(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stateLocked(name).failures >= unfitAfter
}

// awaitRemoval waits until a template is not being removed: it is frozen still, but there are no leases of it.
func (s *Store) awaitRemoval(ctx context.Context, name string) error {
	return s.await(ctx, func() bool { return !s.stateLocked(name).removing })
}

// create makes the VM and starts it, also when ctx ends meanwhile: else the VM might exist but its reference be unknown here.
func (s *Store) create(ctx context.Context, in inputs) (vsphere.Ref, error) {
	ctx = context.WithoutCancel(ctx)
	text, err := json.Marshal(saved{inputs: in, Created: time.Now().UTC()})
	if err != nil {
		return vsphere.Ref{}, fmt.Errorf("cannot encode %s: %w", record.KeyTemplate, err)
	}
	spec, err := link.EncodeSpec(&tetherv1.Spec{
		Mode: tetherv1.Mode_TEMPLATE, Hostname: in.name(), Interfaces: []*tetherv1.Interface{{Slot: 1}},
	})
	if err != nil {
		return vsphere.Ref{}, err
	}
	ref, err := s.host.CreateVM(ctx, vsphere.VMSpec{
		Name: in.name(), UUID: in.uuid(), CPUs: in.CPUs, MemoryMiB: in.MemoryMiB, Kernel: in.Kernel, Initrd: in.Initrd, Cards: ownCards(),
		ExtraConfig: map[string]string{record.KeyRole: record.RoleTemplate, record.KeyTemplate: string(text), link.KeySpec: spec},
	})
	if err != nil {
		return ref, err
	}
	if err := s.host.PowerOn(ctx, ref); err != nil {
		return ref, errors.Join(err, s.destroy(ctx, ref))
	}
	return ref, nil
}

// ownCards are the network cards of a template, as a child inherits them: one in the host's usual network, because most containers have
// one there. It is connected to no one, since nobody told the network who it is.
func ownCards() []vsphere.Card { return []vsphere.Card{{}} }

// awaitFrozen waits until a template stands at its fork point.
func (s *Store) awaitFrozen(ctx context.Context, name string, ref vsphere.Ref) error {
	wait, cancel := context.WithTimeout(ctx, s.opt.Timeout)
	defer cancel()
	vm, err := s.host.Wait(wait, ref, func(vm vsphere.VM) bool { return vm.Frozen || vm.PowerState != vsphere.PoweredOn })
	phase := cmp.Or(vm.Extra[link.KeyPhase], "before the tether's first (kernel or initramfs)")
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("it did not freeze within %v; its tether hangs in phase %s; the end of its console:\n%s", s.opt.Timeout, phase, s.console(ctx, name))
	case err != nil:
		return err
	case vm.PowerState != vsphere.PoweredOn:
		return fmt.Errorf("its machine ended in phase %s: %s; the end of its console:\n%s", phase, ending(vm), s.console(ctx, name))
	}
	return nil
}

func (s *Store) console(ctx context.Context, name string) string {
	return cmp.Or(s.host.ConsoleTail(context.WithoutCancel(ctx), name), "(it is empty)")
}

// ending says why a template's machine is off.
func ending(vm vsphere.VM) string {
	if st, err := link.DecodeStatus(vm.Extra[link.KeyStatus]); err == nil && st.GetFailure() != nil {
		return st.GetFailure().GetMessage()
	}
	if exit, err := hostapi.DecodeExit(vm.Extra[hostapi.KeyExit]); err == nil && exit.Reason != "" {
		return exit.Reason
	}
	return "the host does not say why"
}
