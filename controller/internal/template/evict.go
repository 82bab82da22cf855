package template

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
)

// candidate is a template that may have to go.
type candidate struct {
	name  string
	stale bool // made of other boot files than new machines are
	busy  bool // it is being made or cloned
	used  time.Time
}

// victim chooses the template that goes for another one: one of other boot files first, else the one used longest ago,
// never a busy one. The answer is empty when there is none.
func victim(all []candidate) string {
	var worst *candidate
	for i := range all {
		c := &all[i]
		switch {
		case c.busy:
		case worst == nil, c.stale && !worst.stale, c.stale == worst.stale && c.used.Before(worst.used):
			worst = c
		}
	}
	if worst == nil {
		return ""
	}
	return worst.name
}

// makeRoom removes templates until there are at most as many as asked for, or all that are left are busy.
func (s *Store) makeRoom(ctx context.Context, most int) {
	for {
		vm, ok := s.leave(most)
		if !ok {
			return
		}
		s.log.Info("removing a template to make room for another", "template", vm.Name)
		err := s.destroy(ctx, vm.Ref)
		s.left(vm.Name)
		if err != nil {
			s.log.Warn("cannot remove a template", "template", vm.Name, "error", err)
			return
		}
	}
}

// leave chooses a template to remove, which nobody clones from then on.
func (s *Store) leave(most int) (vsphere.VM, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.candidates()
	if len(all) <= most {
		return vsphere.VM{}, false
	}
	name := victim(all)
	vm, ok := s.host.Get(name)
	if name == "" || !ok {
		return vm, false
	}
	s.use(name).leaving = true
	return vm, true
}

// candidates are the templates that the host has; the caller holds mu.
func (s *Store) candidates() []candidate {
	var all []candidate
	for _, vm := range s.host.VMs() {
		t, sound := parse(vm)
		if t.Name == "" {
			continue
		}
		u := s.use(t.Name)
		all = append(all, candidate{
			name: t.Name, stale: !sound || !s.current(t), busy: u.clones > 0 || u.leaving || s.jobs[t.Name] != nil, used: later(u.last, t.Created),
		})
	}
	return all
}

// current reports whether a template is made of what new machines boot.
func (s *Store) current(t Template) bool {
	boot := s.host.Boot()
	return t.Kernel == boot.Kernel && t.Initrd == boot.Initrd
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// left ends what leave began.
func (s *Store) left(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.use(name).leaving = false
	if _, exists := s.host.Get(name); !exists && s.uses[name].clones == 0 {
		delete(s.uses, name)
	}
	s.notify()
}

// Remove removes a template by its name. Machines that were forked from it live on; the next container of its size boots
// while it is made anew.
func (s *Store) Remove(ctx context.Context, name string) error {
	vm, err := s.leaveByName(name)
	if err != nil {
		return err
	}
	defer s.left(name)
	if err := s.destroy(context.WithoutCancel(ctx), vm.Ref); err != nil {
		return fmt.Errorf("cannot remove template %s: %w", name, err)
	}
	return nil
}

func (s *Store) leaveByName(name string) (vsphere.VM, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, ok := s.host.Get(name)
	u := s.use(name)
	switch {
	case !ok || vm.Extra[record.KeyRole] != record.RoleTemplate:
		delete(s.uses, name)
		return vm, errdefs.ErrNotFound.WithMessage("No such template: " + name)
	case s.jobs[name] != nil:
		return vm, errdefs.ErrConflict.WithMessage(fmt.Sprintf("cannot remove template %s: it is being made", name))
	case u.clones > 0 || u.leaving:
		return vm, errdefs.ErrConflict.WithMessage(fmt.Sprintf("cannot remove template %s: it is in use at this moment, try again", name))
	}
	u.leaving = true
	return vm, nil
}

// destroyTime bounds the removal of a machine.
const destroyTime = time.Minute

// destroy pulls the plug of a VM and removes it. One that is gone already is no error.
func (s *Store) destroy(ctx context.Context, vm vsphere.Ref) error {
	ctx, cancel := context.WithTimeout(ctx, destroyTime)
	defer cancel()
	if err := s.host.PowerOff(ctx, vm); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if err := s.host.Destroy(ctx, vm); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}
