package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

func create(t testing.TB, s *Service, r network.CreateRequest) Network {
	t.Helper()
	n, err := s.Create(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// consistent says what of the host and the index do not fit each other.
func consistent(t testing.TB, h *fakeHost, s *Service) {
	t.Helper()
	groups := map[string]bool{}
	for _, n := range s.index.Read().Networks {
		if n.Phase != "" {
			t.Errorf("network %s is left %s", n.Name, n.Phase)
		}
		groups[n.PortGroup] = true
		if _, ok := h.settings[n.PortGroup]; !ok || !h.groups[n.PortGroup] {
			t.Errorf("network %s has no port group, or the host was not told of it", n.Name)
		}
	}
	for g := range h.groups {
		if !groups[g] {
			t.Errorf("port group %s is of no network", g)
		}
	}
	if len(s.uses.removing)+len(s.uses.held)+len(s.uses.reserved) > 0 {
		t.Errorf("left: %+v", s.uses)
	}
}

// TestCrashes: a controller that dies at any call to the host while it makes or removes a network leaves nothing that the next start
// does not clear, and what was answered is so.
func TestCrashes(t *testing.T) {
	operations := map[string]func(s *Service, h *fakeHost) error{
		"create": func(s *Service, h *fakeHost) error {
			_, err := s.Create(context.Background(), network.CreateRequest{Name: "new"})
			return err
		},
		"remove": func(s *Service, h *fakeHost) error { return s.Remove(context.Background(), "old", h.users()) },
	}
	for name, operation := range operations {
		for after := 0; ; after++ {
			h := newFakeHost()
			s := newService(t, h)
			create(t, s, network.CreateRequest{Name: "old"})
			create(t, s, network.CreateRequest{Name: "other"})
			stopped, release, err := s.Reserve(nil, Want{Network: "old"}, Want{Network: "other"})
			if err != nil {
				t.Fatal(err)
			}
			h.put(t, "stopped", stopped)
			release()
			revive := h.kill(after)
			failed := operation(s, h)
			complete := revive()
			s = newService(t, h)
			consistent(t, h, s)
			_, newErr := s.Find("new")
			_, oldErr := s.Find("old")
			done := map[string]bool{"create": newErr == nil, "remove": errdefs.IsNotFound(oldErr)}[name]
			if failed == nil && !done {
				t.Errorf("%s, killed after %d: it was answered, and is not done", name, after)
			}
			if err := operation(s, h); !done && err != nil {
				t.Errorf("%s, killed after %d: the next try: %v", name, after, err)
			}
			consistent(t, h, s)
			if complete {
				if failed != nil || after < 4 {
					t.Errorf("%s ends after %d calls: %v", name, after, failed)
				}
				break
			}
		}
	}
}

// TestFailures: what fails on the host is undone, and said.
func TestFailures(t *testing.T) {
	bad := errors.New("the host says no")
	for _, operation := range []string{"Upload", "PortGroups", "AddPortGroup", "SetNetwork"} {
		h := newFakeHost()
		s := newService(t, h)
		h.fail[operation] = bad
		if _, err := s.Create(t.Context(), network.CreateRequest{Name: "a"}); !errors.Is(err, bad) {
			t.Errorf("%s fails: %v", operation, err)
		}
		delete(h.fail, operation)
		consistent(t, h, s)
		create(t, s, network.CreateRequest{Name: "a"})
		consistent(t, h, s)
	}
	h := newFakeHost()
	s := newService(t, h)
	create(t, s, network.CreateRequest{Name: "a"})
	e, release, err := s.Reserve(nil, Want{Network: "a"})
	if err != nil {
		t.Fatal(err)
	}
	ref := h.put(t, "c", e)
	release()
	for _, operation := range []string{"Upload", "RemovePortGroup"} {
		h.fail[operation] = bad
		if err := s.Remove(t.Context(), "a", h.users()); !errors.Is(err, bad) {
			t.Errorf("%s fails: %v", operation, err)
		}
		delete(h.fail, operation)
		consistent(t, h, s)
		if h.vms[ref].cards[0] != "cvm-a" {
			t.Errorf("%s fails: the stopped container has lost its card", operation)
		}
	}
}

// TestForeignPortGroup: what someone else made on the host is neither taken nor removed.
func TestForeignPortGroup(t *testing.T) {
	h := newFakeHost()
	s := newService(t, h)
	h.groups["cvm-theirs"] = true
	if _, err := s.Create(t.Context(), network.CreateRequest{Name: "theirs"}); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "port group cvm-theirs") {
		t.Errorf("made over it: %v", err)
	}
	newService(t, h)
	if !h.groups["cvm-theirs"] {
		t.Error("it was removed")
	}
}

// TestRestore: a start makes a port group again that someone has removed, and tells the host all settings again.
func TestRestore(t *testing.T) {
	h := newFakeHost()
	s := newService(t, h)
	create(t, s, network.CreateRequest{Name: "a", Options: map[string]string{optionMTU: "1400"}})
	delete(h.groups, "cvm-a")
	h.settings = map[string]hostapi.NetworkSettings{}
	s = newService(t, h)
	consistent(t, h, s)
	if got := h.settings["cvm-a"]; got.MTU != 1400 || !slices.Equal(got.Gateways, []netip.Prefix{netip.MustParsePrefix("172.18.0.1/16")}) {
		t.Errorf("told: %+v", got)
	}
	if got := h.settings[hostapi.DefaultNetwork]; !slices.Equal(got.Gateways, []netip.Prefix{netip.MustParsePrefix("172.17.0.1/16")}) {
		t.Errorf("told of the default network: %+v", got)
	}
}

// TestBridge: the default network has the subnet that was asked for when it was made, and keeps it.
func TestBridge(t *testing.T) {
	h := newFakeHost()
	log := slog.New(slog.DiscardHandler)
	for _, subnet := range []string{"10.0.0.0/31", "127.0.0.0/8", "169.254.0.0/16"} {
		if _, err := New(t.Context(), h, Options{Routes: noRoutes, Bridge: prefix(subnet)}, log); err == nil {
			t.Errorf("%s is taken", subnet)
		}
	}
	s, err := New(t.Context(), h, Options{Routes: noRoutes, Bridge: prefix("10.5.0.9/24")}, log)
	if err != nil {
		t.Fatal(err)
	}
	if b := s.Bridge(); b.IPv4.Subnet != prefix("10.5.0.0/24") || b.IPv4.Gateway != addr("10.5.0.1") || b.PortGroup != hostapi.DefaultNetwork {
		t.Errorf("made: %+v", b)
	}
	if b := newService(t, h).Bridge(); b.IPv4.Subnet != prefix("10.5.0.0/24") {
		t.Errorf("opened again: %+v", b)
	}
}

// TestIndexIsDistrusted: an index that contradicts itself is not worked with.
func TestIndexIsDistrusted(t *testing.T) {
	for name, text := range map[string]string{
		"torn": `{"version":1,`, "newer": `{"version":2}`, "no version": `{}`,
		"two names":  `{"version":1,"networks":{"a":{"id":"a","name":"n","portGroup":"x"},"b":{"id":"b","name":"n","portGroup":"y"}}}`,
		"other ID":   `{"version":1,"networks":{"a":{"id":"b","name":"n","portGroup":"x"}}}`,
		"no gateway": `{"version":1,"networks":{"a":{"id":"a","name":"n","portGroup":"x","ipv4":{"subnet":"10.0.0.0/24","gateway":"10.1.0.1"}}}}`,
	} {
		h := newFakeHost()
		h.files[indexPath] = []byte(text)
		if _, err := New(t.Context(), h, Options{Routes: noRoutes}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), indexPath) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"version":1,"networks":{"a":{"id":"a","name":"n","portGroup":"x","ipv4":{"subnet":"10.0.0.0/24","gateway":"10.0.0.1"}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := decodeIndex(data)
		if err != nil {
			return
		}
		for _, n := range x.Networks {
			n.Docker()
			if a, ok := n.IPv4.free(nil); ok && !n.IPv4.usable(a) {
				t.Errorf("%v is given of %+v", a, n.IPv4)
			}
		}
	})
}

// TestRemove: who runs in a network, or is about to, keeps it; who does not run loses his card, and cannot start any more.
func TestRemove(t *testing.T) {
	h := newFakeHost()
	s := newService(t, h)
	n := create(t, s, network.CreateRequest{Name: "a"})
	e, release, err := s.Reserve(nil, Want{Network: n.ID[:12]})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), "a", h.users()); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "has active endpoints") {
		t.Errorf("while a container is being made: %v", err)
	}
	ref := h.put(t, "c", e)
	release()
	want := `error while removing network: network a has active endpoints (name:"c" id:"` + e[0].ID[:12] + `")`
	if err := s.Remove(t.Context(), "a", h.users("c")); !errdefs.IsPermissionDenied(err) || err.Error() != want {
		t.Errorf("while one runs: %v, want %s", err, want)
	}
	held, err := s.Hold(e)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), "a", h.users()); !errdefs.IsPermissionDenied(err) {
		t.Errorf("while one is started: %v", err)
	}
	held()
	if names, err := s.Prune(t.Context(), func(Network) bool { return true }, h.users("c")); len(names) > 0 || err != nil {
		t.Errorf("pruned while one runs: %v, %v", names, err)
	}
	if err := s.Remove(t.Context(), "a", h.users()); err != nil {
		t.Fatal(err)
	}
	if len(h.vms[ref].cards) > 0 {
		t.Error("the container that does not run has its card")
	}
	if e := h.endpoints(ref); !e[0].Unplugged || len(Cards(e))+len(HostEndpoints(Who{}, e))+len(Interfaces(e)) > 0 {
		t.Errorf("its record says %+v", e)
	}
	if _, err := s.Hold(e); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "network "+n.ID+" not found") {
		t.Errorf("it is started: %v", err)
	}
	for _, name := range []string{"bridge", "none"} {
		if err := s.Remove(t.Context(), name, h.users()); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "pre-defined") {
			t.Errorf("%s: %v", name, err)
		}
	}
	consistent(t, h, s)
	create(t, s, network.CreateRequest{Name: "b"})
	if names, err := s.Prune(t.Context(), func(Network) bool { return true }, h.users()); !slices.Equal(names, []string{"b"}) || err != nil {
		t.Errorf("pruned: %v, %v", names, err)
	}
	happened, r := s.opt.Feed.Open(time.Time{}, time.Time{})
	r.Close()
	for i, want := range []events.Action{"create", "prune", "destroy", "create", "destroy", "prune"} {
		if i >= len(happened) || happened[i].Action != want || happened[i].Type != events.NetworkEventType {
			t.Fatalf("events %+v, want %s as number %d", happened, want, i)
		}
	}
}

// TestFind: by ID, name, unique prefix; the default network by its other names.
func TestFind(t *testing.T) {
	h := newFakeHost()
	s := newService(t, h)
	n := create(t, s, network.CreateRequest{Name: "a"})
	for _, ref := range []string{n.ID, "a", n.ID[:12], n.ID[:5]} {
		if got, err := s.Find(ref); err != nil || got.ID != n.ID {
			t.Errorf("%q: %v, %v", ref, got.Name, err)
		}
	}
	for _, ref := range []string{"", "default", "bridge"} {
		if got, err := s.Find(ref); err != nil || got.Name != "bridge" || got.ID != fixedID("bridge") {
			t.Errorf("%q: %v, %v", ref, got.Name, err)
		}
	}
	if _, err := s.Find("nope"); !errdefs.IsNotFound(err) || err.Error() != "network nope not found" {
		t.Error(err)
	}
	if _, err := s.Find("host"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

// TestManyAtOnce: networks that are made at once have names and subnets of their own.
func TestManyAtOnce(t *testing.T) {
	h := newFakeHost()
	s := newService(t, h)
	var work sync.WaitGroup
	errs := make([]error, 40)
	for i := range errs {
		work.Go(func() {
			_, errs[i] = s.Create(context.Background(), network.CreateRequest{Name: string(rune('a' + i%20))})
		})
	}
	work.Wait()
	made := 0
	for _, err := range errs {
		switch {
		case err == nil:
			made++
		case !errdefs.IsConflict(err):
			t.Error(err)
		}
	}
	if made != 20 {
		t.Errorf("%d are made, want 20", made)
	}
	var seen []netip.Prefix
	for _, n := range s.index.Read().Networks {
		if overlaps(n.IPv4.Subnet, seen) {
			t.Errorf("%v overlaps another", n.IPv4.Subnet)
		}
		seen = append(seen, n.IPv4.Subnet)
	}
	consistent(t, h, s)
	for i := 21; i < 31; i++ { // Docker's default pools have 31
		create(t, s, network.CreateRequest{Name: fmt.Sprintf("n%d", i)})
	}
	_, err := s.Create(t.Context(), network.CreateRequest{Name: "full"})
	if !errdefs.IsInvalidArgument(err) || err.Error() != "all predefined address pools have been fully subnetted" {
		t.Errorf("one too many: %v", err)
	}
}
