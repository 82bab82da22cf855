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
	busy  bool // it is being made, cloned or removed
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
		vm, ok := s.beginEviction(most)
		if !ok {
			return
		}
		s.log.Info("removing a template to make room for another", "template", vm.Name)
		err := s.destroy(ctx, vm.Ref)
		s.endRemoval(vm.Name)
		if err != nil {
			s.log.Warn("cannot remove a template", "template", vm.Name, "err", err)
			return
		}
	}
}

// beginEviction chooses a template to remove, of which there are no leases from then on; false: there is room, or all are busy.
func (s *Store) beginEviction(most int) (vsphere.VM, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.candidatesLocked()
	if len(all) <= most {
		return vsphere.VM{}, false
	}
	name := victim(all)
	vm, ok := s.host.Get(name)
	if name == "" || !ok {
		return vm, false
	}
	s.stateLocked(name).removing = true
	return vm, true
}

// candidatesLocked are the templates that the host has.
func (s *Store) candidatesLocked() []candidate {
	var all []candidate
	for _, vm := range s.host.VMs() {
		t, sound := parse(vm)
		if t.Name == "" {
			continue
		}
		st := s.stateLocked(t.Name)
		all = append(all, candidate{
			name: t.Name, stale: !sound || !s.current(t), busy: st.leases > 0 || st.removing || st.job != nil, used: later(st.lastUse, t.Created),
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

// endRemoval is called when a removal has ended, with success or without.
func (s *Store) endRemoval(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stateLocked(name).removing = false
	if _, exists := s.host.Get(name); !exists {
		s.forgetLocked(name)
	}
	s.notifyLocked()
}

// Remove removes a template by its name. Its children go on; the next container of its size boots while it is made anew. Errors
// are of class errdefs.ErrNotFound or, of a template that is being made or cloned, errdefs.ErrConflict.
func (s *Store) Remove(ctx context.Context, name string) error {
	vm, err := s.beginRemoval(name)
	if err != nil {
		return err
	}
	defer s.endRemoval(name)
	if err := s.destroy(context.WithoutCancel(ctx), vm.Ref); err != nil {
		return fmt.Errorf("cannot remove template %s: %w", name, err)
	}
	return nil
}

// beginRemoval finds a template to remove, of which there are no leases from then on.
func (s *Store) beginRemoval(name string) (vsphere.VM, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, ok := s.host.Get(name)
	st := s.stateLocked(name)
	switch {
	case !ok || vm.Extra[record.KeyRole] != record.RoleTemplate:
		s.forgetLocked(name)
		return vm, errdefs.ErrNotFound.WithMessage("No such template: " + name)
	case st.job != nil:
		return vm, errdefs.ErrConflict.WithMessage(fmt.Sprintf("cannot remove template %s: it is being made", name))
	case st.leases > 0 || st.removing:
		return vm, errdefs.ErrConflict.WithMessage(fmt.Sprintf("cannot remove template %s: it is in use at this moment, try again", name))
	}
	st.removing = true
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
