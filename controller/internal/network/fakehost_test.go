package network

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/controller/internal/feed"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// fakeHost is a datastore, port groups and VMs in memory.
type fakeHost struct {
	mu       sync.Mutex
	files    map[string][]byte
	groups   map[string]bool
	settings map[string]hostapi.NetworkSettings
	vms      map[vsphere.Ref]*fakeVM
	fail     map[string]error
	plain    bool // it has no extensions
	killed   bool // the service reaches the host no more after calls more operations
	calls    int
}

type fakeVM struct {
	vsphere.VM
	cards map[int]string // port groups by slot
}

var errKilled = errors.New("the controller was killed")

func newFakeHost() *fakeHost {
	return &fakeHost{
		files: map[string][]byte{}, groups: map[string]bool{hostapi.DefaultNetwork: true}, settings: map[string]hostapi.NetworkSettings{},
		vms: map[vsphere.Ref]*fakeVM{}, fail: map[string]error{},
	}
}

func noRoutes() (Routes, error) { return Routes{}, nil }

func newService(t testing.TB, h *fakeHost) *Service {
	t.Helper()
	s, err := New(t.Context(), h, Options{Routes: noRoutes, Feed: &feed.Feed{}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (h *fakeHost) enter(operation string) (leave func(), err error) {
	h.mu.Lock()
	if h.killed {
		if h.calls == 0 {
			return h.mu.Unlock, errKilled
		}
		h.calls--
	}
	return h.mu.Unlock, h.fail[operation]
}

// kill lets a number of operations pass, and no more until revive, which reports whether some were left over.
func (h *fakeHost) kill(after int) (revive func() (complete bool)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.killed, h.calls = true, after
	return func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.killed = false
		return h.calls > 0
	}
}

func (h *fakeHost) Upload(_ context.Context, path string, r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	leave, err := h.enter("Upload")
	defer leave()
	if err == nil {
		h.files[path] = data
	}
	return err
}

func (h *fakeHost) Download(_ context.Context, path string) (io.ReadCloser, error) {
	leave, err := h.enter("Download")
	defer leave()
	if err != nil {
		return nil, err
	}
	data, ok := h.files[path]
	if !ok {
		return nil, errdefs.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (h *fakeHost) VMs() []vsphere.VM {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []vsphere.VM
	for _, vm := range h.vms {
		all = append(all, vm.VM)
	}
	return all
}

func (h *fakeHost) Has(extension string) bool { return !h.plain }

func (h *fakeHost) DefaultNetwork() string { return hostapi.DefaultNetwork }

func (h *fakeHost) PortGroups(context.Context) ([]string, error) {
	leave, err := h.enter("PortGroups")
	defer leave()
	return slices.Sorted(maps.Keys(h.groups)), err
}

func (h *fakeHost) AddPortGroup(_ context.Context, name string) error {
	leave, err := h.enter("AddPortGroup")
	defer leave()
	if err == nil && h.groups[name] {
		err = errdefs.ErrAlreadyExists
	}
	if err == nil {
		h.groups[name] = true
	}
	return err
}

func (h *fakeHost) RemovePortGroup(_ context.Context, name string) error {
	leave, err := h.enter("RemovePortGroup")
	defer leave()
	if err != nil {
		return err
	}
	for _, vm := range h.vms {
		for _, group := range vm.cards {
			if group == name {
				return errdefs.ErrConflict
			}
		}
	}
	delete(h.groups, name)
	delete(h.settings, name)
	return nil
}

func (h *fakeHost) SetNetwork(_ context.Context, name string, settings hostapi.NetworkSettings) error {
	leave, err := h.enter("SetNetwork")
	defer leave()
	if err == nil {
		err = settings.Check()
	}
	if err == nil && !h.groups[name] {
		err = errdefs.ErrNotFound
	}
	if err == nil {
		h.settings[name] = settings
	}
	return err
}

func (h *fakeHost) Change(_ context.Context, ref vsphere.Ref, change vsphere.Change) error {
	leave, err := h.enter("Change")
	defer leave()
	if err != nil {
		return err
	}
	vm := h.vms[ref]
	for _, card := range change.Cards.From {
		if _, ok := vm.cards[card.Slot]; !ok {
			return errdefs.ErrInvalidArgument
		}
		delete(vm.cards, card.Slot)
	}
	for _, card := range change.Cards.To {
		vm.cards[card.Slot] = card.Network
	}
	vm.Extra = maps.Clone(vm.Extra)
	maps.Copy(vm.Extra, change.Extra)
	return nil
}

// put makes a VM, or changes it to one, that is in networks as its record says.
func (h *fakeHost) put(t testing.TB, name string, endpoints []record.Endpoint) vsphere.Ref {
	t.Helper()
	text, err := record.EncodeNetworks(endpoints)
	if err != nil {
		t.Fatal(err)
	}
	vm := &fakeVM{
		VM:    vsphere.VM{Ref: vsphere.Ref{Type: "VirtualMachine", Value: name}, Name: name, Extra: map[string]string{record.KeyNetworks: text}},
		cards: map[int]string{},
	}
	for _, e := range endpoints {
		vm.cards[e.Slot] = e.PortGroup
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.vms[vm.Ref] = vm
	return vm.Ref
}

func (h *fakeHost) endpoints(ref vsphere.Ref) []record.Endpoint {
	h.mu.Lock()
	defer h.mu.Unlock()
	all, _ := record.DecodeNetworks(h.vms[ref].Extra[record.KeyNetworks])
	return all
}

func (h *fakeHost) remove(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.vms, vsphere.Ref{Type: "VirtualMachine", Value: name})
}

// users are all VMs as containers, of which those named run.
func (h *fakeHost) users(running ...string) Containers { return &fakeContainers{h, running} }

type fakeContainers struct {
	h       *fakeHost
	running []string
}

func (c *fakeContainers) NetworkUsers(networkID string) []User {
	var users []User
	for _, vm := range c.h.VMs() {
		endpoints, _ := record.DecodeNetworks(vm.Extra[record.KeyNetworks])
		for _, e := range endpoints {
			if e.NetworkID == networkID {
				users = append(users, User{
					Who: Who{ID: vm.Name, Name: vm.Name}, VM: vm.Ref, Running: slices.Contains(c.running, vm.Name), Endpoint: e,
				})
			}
		}
	}
	return users
}

func (c *fakeContainers) AcquireStart(context.Context, string) (func(), error) { return func() {}, nil }
