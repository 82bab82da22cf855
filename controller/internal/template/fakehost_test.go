package template

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
)

// fakeHost is an inventory in memory. Templates freeze when they are powered on, warm VMs have rehearsed when they exist.
type fakeHost struct {
	t    *testing.T
	boot vsphere.BootFiles

	mu         sync.Mutex
	vms        map[string]vsphere.VM
	changed    chan struct{}
	made       []string // names of VMs ever created, in order
	waits      int
	cloneErr   error
	rehearses  bool
	destroying chan struct{} // when set, Destroy waits until it is closed
}

func newFakeHost(t *testing.T) *fakeHost {
	return &fakeHost{
		t: t, boot: vsphere.BootFiles{Kernel: "k", Initrd: "i"}, vms: map[string]vsphere.VM{}, changed: make(chan struct{}), rehearses: true,
	}
}

// run runs a Store of the host until the test ends.
func (h *fakeHost) run(opt Options) *Store {
	s := New(h, opt, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(h.t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Run(ctx)
	}()
	h.t.Cleanup(func() {
		cancel()
		<-ended
	})
	synctest.Wait()
	return s
}

// set changes the inventory.
func (h *fakeHost) set(change func(vms map[string]vsphere.VM)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(h.vms)
	close(h.changed)
	h.changed = make(chan struct{})
}

// names of the VMs with a role, sorted.
func (h *fakeHost) names(role string) []string {
	var all []string
	for _, vm := range h.VMs() {
		if vm.Extra[record.KeyRole] == role {
			all = append(all, vm.Name)
		}
	}
	slices.Sort(all)
	return all
}

func (h *fakeHost) VMs() []vsphere.VM {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Values(h.vms))
}

func (h *fakeHost) Get(name string) (vsphere.VM, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	vm, ok := h.vms[name]
	return vm, ok
}

func (h *fakeHost) Wait(ctx context.Context, ref vsphere.Ref, until func(vsphere.VM) bool) (vsphere.VM, error) {
	for {
		h.mu.Lock()
		vm, ok := h.vms[ref.Value]
		changed := h.changed
		h.waits++
		tooMany := h.waits > 100
		h.mu.Unlock()
		if tooMany {
			h.t.Error("it waits for the host again and again")
			<-ctx.Done()
			return vm, ctx.Err()
		}
		if !ok || until(vm) {
			return vm, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return vm, ctx.Err()
		}
	}
}

func (h *fakeHost) Subscribe(ctx context.Context) <-chan vsphere.VMEvent {
	events := make(chan vsphere.VMEvent)
	go func() {
		defer close(events)
		for {
			h.mu.Lock()
			changed := h.changed
			h.mu.Unlock()
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
			select {
			case events <- vsphere.VMEvent{After: &vsphere.VM{Extra: map[string]string{record.KeyRole: record.RoleWarm}}}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return events
}

func (h *fakeHost) CreateVM(_ context.Context, spec vsphere.VMSpec) (vsphere.Ref, error) {
	ref := vsphere.Ref{Type: "VirtualMachine", Value: spec.Name}
	h.set(func(vms map[string]vsphere.VM) {
		h.made = append(h.made, spec.Name)
		vms[spec.Name] = vsphere.VM{Ref: ref, Name: spec.Name, PowerState: vsphere.PoweredOff, Extra: spec.ExtraConfig}
	})
	return ref, nil
}

func (h *fakeHost) InstantClone(_ context.Context, source vsphere.Ref, spec vsphere.CloneSpec) (vsphere.Ref, error) {
	h.mu.Lock()
	err := h.cloneErr
	rehearses := h.rehearses
	h.mu.Unlock()
	if err != nil {
		return vsphere.Ref{}, err
	}
	ref := vsphere.Ref{Type: "VirtualMachine", Value: spec.Name}
	extra := maps.Clone(spec.ExtraConfig)
	if rehearses {
		extra[link.KeyPhase] = link.PhaseWarm
	}
	h.set(func(vms map[string]vsphere.VM) {
		vms[spec.Name] = vsphere.VM{Ref: ref, Name: spec.Name, PowerState: vsphere.PoweredOn, Extra: extra}
	})
	return ref, nil
}

func (h *fakeHost) PowerOn(_ context.Context, ref vsphere.Ref) error {
	h.set(func(vms map[string]vsphere.VM) {
		vm := vms[ref.Value]
		vm.PowerState, vm.Frozen = vsphere.PoweredOn, strings.HasPrefix(vm.Name, namePrefix)
		vms[ref.Value] = vm
	})
	return nil
}

func (h *fakeHost) PowerOff(context.Context, vsphere.Ref) error { return nil }

func (h *fakeHost) Destroy(_ context.Context, ref vsphere.Ref) error {
	h.mu.Lock()
	gate := h.destroying
	_, ok := h.vms[ref.Value]
	h.mu.Unlock()
	if gate != nil {
		<-gate
	}
	if !ok {
		return fmt.Errorf("no VM %s: %w", ref.Value, errdefs.ErrNotFound)
	}
	h.set(func(vms map[string]vsphere.VM) { delete(vms, ref.Value) })
	return nil
}

func (h *fakeHost) Boot() vsphere.BootFiles { return h.boot }

func (h *fakeHost) CanClone() bool { return true }

func (h *fakeHost) ConsoleTail(context.Context, string) string { return "the console's last line" }
