package template

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/controller/internal/ident"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
)

func sizeOf(memoryMiB int) Size { return Size{CPUs: 1, MemoryMiB: memoryMiB} }

// lease waits for a lease of the template of a size.
func lease(t *testing.T, s *Store, memoryMiB int) *Lease {
	t.Helper()
	l, err := s.AwaitLease(t.Context(), sizeOf(memoryMiB))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// use leases a template of a size for a moment, and lets time go by so that the next use is a later one.
func use(t *testing.T, s *Store, memoryMiB int) (name string) {
	t.Helper()
	l := lease(t, s, memoryMiB)
	l.Release()
	time.Sleep(time.Second)
	return l.Name
}

// TestMost: for another template the one used longest ago is removed, unless it has a lease.
func TestMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHost(t)
		s := h.run(Options{Most: 2})
		a, b := use(t, s, 1), use(t, s, 2)
		use(t, s, 1)
		c := use(t, s, 3)
		if got, want := h.names(record.RoleTemplate), sorted(a, c); !slices.Equal(got, want) {
			t.Errorf("templates %q, want %q without %q, which was used longest ago", got, want, b)
		}
		held := lease(t, s, 1)
		use(t, s, 3)
		d := use(t, s, 4)
		if got, want := h.names(record.RoleTemplate), sorted(a, d); !slices.Equal(got, want) {
			t.Errorf("templates %q, want %q: the other one has a lease", got, want)
		}
		if err := s.Remove(t.Context(), a); !errdefs.IsConflict(err) {
			t.Errorf("a template with a lease is removed: %v", err)
		}
		held.Release()
		if err := s.Remove(t.Context(), a); err != nil {
			t.Error(err)
		}
		if err := s.Remove(t.Context(), a); !errdefs.IsNotFound(err) {
			t.Errorf("it is removed again: %v", err)
		}
	})
}

func sorted(names ...string) []string { return slices.Sorted(slices.Values(names)) }

// TestLeaseOfTemplateThatIsBeingRemoved: who waits for it waits for the removal, and gets the next one.
func TestLeaseOfTemplateThatIsBeingRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHost(t)
		s := h.run(Options{Most: 2})
		name := use(t, s, 1)
		h.destroying = make(chan struct{})
		go s.Remove(t.Context(), name)
		synctest.Wait()
		if l, why := s.Lease(sizeOf(1)); l != nil || why == "" {
			t.Errorf("a template is leased that is being removed: %v, %q", l, why)
		}
		leased := make(chan *Lease, 1)
		go func() {
			l, err := s.AwaitLease(t.Context(), sizeOf(1))
			if err != nil {
				t.Error(err)
			}
			leased <- l
		}()
		synctest.Wait()
		select {
		case <-leased:
			t.Error("it is leased while it is being removed")
		default:
		}
		close(h.destroying)
		if l := <-leased; l != nil {
			l.Release()
		}
		if !slices.Equal(h.made, []string{name, name}) {
			t.Errorf("made %q, want %s twice", h.made, name)
		}
	})
}

// TestUnfit: a template whose clones fail is made anew, but not for failures that are not its fault.
func TestUnfit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHost(t)
		s := h.run(Options{Most: 2})
		clone := func(fault error) {
			l := lease(t, s, 1)
			defer l.Release()
			h.cloneErr = fault
			if _, err := l.Clone(t.Context(), ident.New(), nil, "", ownCards()); !errors.Is(err, fault) {
				t.Errorf("clone: %v, want %v", err, fault)
			}
		}
		fault := errors.New("the state cannot be loaded")
		for range unfitAfter - 1 {
			clone(fault)
		}
		clone(nil)
		for range unfitAfter {
			clone(errdefs.ErrResourceExhausted)
		}
		for range unfitAfter - 1 {
			clone(fault)
		}
		if use(t, s, 1); len(h.made) != 1 {
			t.Errorf("%d templates were made, want one", len(h.made))
		}
		clone(fault)
		if use(t, s, 1); len(h.made) != 2 {
			t.Errorf("%d templates were made, want a second one", len(h.made))
		}
	})
}

// TestWarmPool: as many warm VMs as wanted, of the template that was used last, made while nothing else is.
func TestWarmPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHost(t)
		s := h.run(Options{Most: 2, Warm: 2})
		sources := func() map[string]int {
			synctest.Wait()
			n := map[string]int{}
			for _, vm := range h.VMs() {
				if vm.Extra[record.KeyRole] == record.RoleWarm {
					n[Source(vm)]++
				}
			}
			return n
		}
		check := func(what string, want map[string]int) {
			t.Helper()
			if got := sources(); !maps.Equal(got, want) {
				t.Errorf("%s: warm VMs of %v, want %v", what, got, want)
			}
		}
		done := s.Busy()
		a := use(t, s, 1)
		check("busy", map[string]int{})
		done()
		check("not busy", map[string]int{a: 2})
		b := use(t, s, 2)
		check("another template is used", map[string]int{b: 2})

		l := lease(t, s, 2)
		done = s.Busy()
		child, ok := l.TakeWarm()
		if !ok || s.Warm() != 1 {
			t.Fatalf("taken: %v; %d are left", ok, s.Warm())
		}
		h.set(func(vms map[string]vsphere.VM) {
			vm := vms[child.VM.Name]
			vm.Extra = maps.Clone(vm.Extra)
			vm.Extra[record.KeyRole] = record.RoleContainer
			vms[vm.Name] = vm
		})
		child.Release()
		l.Release()
		check("one is a container", map[string]int{b: 1})
		if list := s.List(); list[0].Name != b || list[0].Children != 1 || list[0].Warm != 1 || list[1].Name != a || list[1].Warm != 0 {
			t.Errorf("list %+v", list)
		}
		done()
		check("the pool is full again", map[string]int{b: 2})
	})
}

// TestWarmVMThatNeverRehearses is removed when it should have long ago.
func TestWarmVMThatNeverRehearses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHost(t)
		h.rehearses = false
		s := h.run(Options{Most: 1, Warm: 1, Timeout: time.Minute})
		l := lease(t, s, 1)
		defer l.Release()
		synctest.Wait()
		first := h.names(record.RoleWarm)
		if _, ok := l.TakeWarm(); ok || len(first) != 1 {
			t.Errorf("taken: %v, of %q", ok, first)
		}
		time.Sleep(2 * time.Minute)
		s.Busy()() // something happens
		synctest.Wait()
		if second := h.names(record.RoleWarm); len(second) != 1 || second[0] == first[0] {
			t.Errorf("warm VMs %q, then %q: want another", first, second)
		}
	})
}

// TestStart: a store goes on with what earlier ones left, and removes what is of no use.
func TestStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHost(t)
		first := h.run(Options{Most: 4})
		kept, ended := use(t, first, 1), use(t, first, 2)
		making := inputs{Kernel: "k", Initrd: "i", MemoryMiB: 3, CPUs: 1}
		stale := templateVM(t, inputs{Kernel: "old", Initrd: "i", MemoryMiB: 1, CPUs: 1})
		h.set(func(vms map[string]vsphere.VM) {
			vm := vms[ended]
			vm.PowerState, vm.Frozen = vsphere.PoweredOff, false
			vms[ended] = vm
			vm = templateVM(t, making)
			vm.Ref, vm.Frozen = vsphere.Ref{Type: "VirtualMachine", Value: vm.Name}, false
			vms[vm.Name] = vm
			stale.Ref = vsphere.Ref{Type: "VirtualMachine", Value: stale.Name}
			vms[stale.Name] = stale
		})
		s := h.run(Options{Most: 4, First: sizeOf(5)})
		firstName := inputs{Kernel: "k", Initrd: "i", MemoryMiB: 5, CPUs: 1}.name()
		if got, want := h.names(record.RoleTemplate), sorted(kept, making.name(), firstName); !slices.Equal(got, want) {
			t.Errorf("templates %q, want %q", got, want)
		}
		if l, why := s.Lease(sizeOf(3)); l != nil {
			t.Errorf("a template is leased that is being made: %q", why)
		}
		h.set(func(vms map[string]vsphere.VM) {
			vm := vms[making.name()]
			vm.Frozen = true
			vms[vm.Name] = vm
		})
		use(t, s, 3)
		if n := len(h.made); n != 3 {
			t.Errorf("%d VMs were made: %q; want 3, as the one that was being made is used", n, h.made)
		}
	})
}

// TestQuiesce: it waits for clones, removes templates and warm VMs, and no template is made any more.
func TestQuiesce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHost(t)
		s := h.run(Options{Most: 2, Warm: 1})
		l := lease(t, s, 1)
		if _, err := l.Clone(t.Context(), ident.New(), map[string]string{record.KeyRole: record.RoleContainer, link.KeySpec: "x"}, "", ownCards()); err != nil {
			t.Fatal(err)
		}
		quiet := make(chan error, 1)
		go func() { quiet <- s.Quiesce(t.Context()) }()
		synctest.Wait()
		if len(quiet) > 0 || len(h.names(record.RoleTemplate)) != 1 {
			t.Error("it did not wait for the lease")
		}
		l.Release()
		if err := <-quiet; err != nil {
			t.Error(err)
		}
		if n := len(h.VMs()); n != 1 || len(h.names(record.RoleContainer)) != 1 {
			t.Errorf("%d VMs are left, want the container", n)
		}
		if _, err := s.AwaitLease(t.Context(), sizeOf(1)); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("a lease after the end: %v", err)
		}
	})
}

// TestAwaitLeaseGivesUp with its context.
func TestAwaitLeaseGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(newFakeHost(t), Options{Most: 1}, nil) // nobody runs it
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.AwaitLease(ctx, sizeOf(1)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}
