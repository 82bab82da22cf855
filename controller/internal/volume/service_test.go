package volume

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
)

func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

func nobody(string) []string { return nil }

func names(all []Volume) []string {
	var out []string
	for _, v := range all {
		out = append(out, v.Name)
	}
	return out
}

func TestCreateIsIdempotent(t *testing.T) {
	h := newFakeHost()
	s := open(t, h)
	heard := listen(t, s)
	first, err := s.Create(t.Context(), Request{Name: "data", Options: map[string]string{"size": "100m"}, Labels: map[string]string{"a": "b"}})
	if err != nil {
		t.Fatal(err)
	}
	if first.Place.Size != 100<<20 || h.disks()[first.Disk] != fmt.Sprintf("empty, %d", 100<<20) {
		t.Errorf("%+v has the disk %q", first, h.disks()[first.Disk])
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if v, err := s.Create(t.Context(), Request{Name: "data"}); err != nil || v.Disk != first.Disk || v.Labels["a"] != "b" {
				t.Errorf("the same volume again: %+v, %v", v, err)
			}
			if v, err := s.Create(t.Context(), Request{Name: "other"}); err != nil || v.Place.Size != DefaultSize {
				t.Errorf("%+v, %v", v, err)
			}
		})
	}
	all.Wait()
	if got := names(s.List()); !slices.Equal(got, []string{"data", "other"}) || len(h.disks()) != 2 {
		t.Errorf("volumes %v, disks %v", got, h.disks())
	}
	for _, want := range []string{"data", "other"} {
		if m := heard(); m.Action != events.ActionCreate || m.Actor.ID != want || m.Actor.Attributes["driver"] != Driver {
			t.Errorf("heard %+v", m)
		}
	}
	if again := open(t, h); !slices.Equal(names(again.List()), []string{"data", "other"}) {
		t.Errorf("after a start: %v", names(again.List()))
	}
}

func TestAnonymous(t *testing.T) {
	s := open(t, newFakeHost())
	v, err := s.Create(t.Context(), Request{})
	if err != nil || len(v.Name) != 64 || !v.Anonymous() {
		t.Errorf("%+v, %v", v, err)
	}
	h := s.Hold()
	mine, err := h.Get(t.Context(), Request{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(mine.Name); !errdefs.IsNotFound(err) {
		t.Errorf("a volume is seen before its container is there: %v", err)
	}
	if err := h.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.Release()
	if _, err := s.Get(mine.Name); err != nil {
		t.Errorf("a volume is not seen although its container is there: %v", err)
	}
	h = s.Hold()
	lost, err := h.Get(t.Context(), Request{})
	if err != nil {
		t.Fatal(err)
	}
	named, err := h.Get(t.Context(), Request{Name: "named"})
	if err != nil {
		t.Fatal(err)
	}
	h.Release()
	if _, err := s.host.Stat(t.Context(), lost.Disk); !errdefs.IsNotFound(err) {
		t.Errorf("the volume of a container that was not made is there: %v", err)
	}
	if _, err := s.Get(named.Name); err != nil {
		t.Errorf("a named volume went with a container that was not made: %v", err)
	}
}

func TestRemove(t *testing.T) {
	h := newFakeHost()
	s := open(t, h)
	if err := s.Remove(t.Context(), "none", nobody); !errdefs.IsNotFound(err) || err.Error() != "get none: no such volume" {
		t.Errorf("one that is not there: %v", err)
	}
	if _, err := s.Create(t.Context(), Request{Name: "data"}); err != nil {
		t.Fatal(err)
	}
	err := s.Remove(t.Context(), "data", func(string) []string { return []string{"c1", "c2"} })
	if !errdefs.IsConflict(err) || err.Error() != "remove data: volume is in use - [c1, c2]" {
		t.Errorf("one that containers have: %v", err)
	}
	hold := s.Hold()
	if _, err := hold.Have("data"); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), "data", nobody); !errdefs.IsConflict(err) {
		t.Errorf("one that a container gets at the moment: %v", err)
	}
	hold.Release()
	heard := listen(t, s)
	if err := s.Remove(t.Context(), "data", nobody); err != nil || len(h.disks()) != 0 || len(s.List()) != 0 {
		t.Errorf("%v: %v, %v", err, h.disks(), names(s.List()))
	}
	if m := heard(); m.Action != events.ActionDestroy || m.Actor.ID != "data" {
		t.Errorf("heard %+v", m)
	}
}

func TestPrune(t *testing.T) {
	s := open(t, newFakeHost())
	for _, r := range []Request{{Name: "used"}, {Name: "free"}, {Name: "sized", Options: map[string]string{"size": "1g"}}, {Name: "kept"}} {
		if _, err := s.Create(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	report, err := s.Prune(t.Context(), func(v Volume) bool { return v.Name != "kept" }, func(name string) []string {
		if name == "used" {
			return []string{"c"}
		}
		return nil
	})
	if err != nil || !slices.Equal(report.Names, []string{"free"}) || report.Bytes == 0 {
		t.Errorf("%+v, %v", report, err)
	}
}

// TestRemovalThatFails: a volume whose disk cannot be removed is there still, and one of which only the index was late goes at the next try.
func TestRemovalThatFails(t *testing.T) {
	for kill := 1; kill <= 3; kill++ {
		h := newFakeHost()
		s := open(t, h)
		if _, err := s.Create(t.Context(), Request{Name: "data"}); err != nil {
			t.Fatal(err)
		}
		h.left, h.after = kill, true
		if err := s.Remove(t.Context(), "data", nobody); err == nil {
			t.Errorf("call %d fails, the removal does not", kill)
		}
		h.left = -1
		if v, err := s.Create(t.Context(), Request{Name: "data"}); err != nil || h.disks()[v.Disk] == "" {
			t.Errorf("call %d failed, and it is not made again: %+v, %v", kill, v, err)
		}
	}
}

// life is what a controller does to volumes for a container: named data, an anonymous one, a removal of each. It stops where a call fails.
func life(ctx context.Context, s *Service, exists map[string]bool) {
	users := func(name string) []string {
		if exists[name] {
			return []string{"c"}
		}
		return nil
	}
	if _, err := s.Create(ctx, Request{Name: "gone"}); err != nil {
		return
	}
	hold := s.Hold()
	data, err := hold.Get(ctx, Request{Name: "data"})
	if err != nil {
		return
	}
	own, err := hold.Get(ctx, Request{})
	if err != nil {
		return
	}
	exists[data.Name], exists[own.Name] = true, true // the VM is made
	if hold.Keep(ctx) != nil {
		return
	}
	hold.Release()
	if s.Remove(ctx, "gone", users) != nil {
		return
	}
	if s.Doom(ctx, []string{own.Name}) != nil {
		return
	}
	delete(exists, data.Name) // the VM is gone
	delete(exists, own.Name)
	_ = s.Doomed(ctx, []string{own.Name}, users)
}

// TestKilledController: a controller that is killed at any call to the host, whether that still takes effect or not, leaves nothing that the
// next start does not clear, and loses no volume that a container or a name has.
func TestKilledController(t *testing.T) {
	whole := newFakeHost()
	s := open(t, whole)
	before := len(whole.calls)
	life(t.Context(), s, map[string]bool{})
	total := len(whole.calls) - before
	if total < 15 {
		t.Fatalf("%d calls: %v", total, whole.calls)
	}
	for kill := 1; kill <= total; kill++ {
		for _, after := range []bool{false, true} {
			h, exists := newFakeHost(), map[string]bool{}
			s := open(t, h)
			h.left, h.after = kill, after
			life(t.Context(), s, exists)
			h.left = -1
			next := open(t, h)
			next.Sweep(t.Context(), func(name string) []string {
				if exists[name] {
					return []string{"c"}
				}
				return nil
			})
			at := fmt.Sprintf("killed at call %d (%v), which was done: %v", kill, h.calls[before+kill-1], after)
			disks := h.disks()
			for _, v := range next.List() {
				if content := disks[v.Disk]; !strings.Contains(content, ",") {
					t.Errorf("%s: volume %s has the disk %q", at, v.Name, content)
				}
				delete(disks, v.Disk)
			}
			if len(disks) > 0 {
				t.Errorf("%s: disks of no volume: %v", at, disks)
			}
			for name := range exists {
				if _, err := next.Get(name); err != nil {
					t.Errorf("%s: a container lost its volume: %v", at, err)
				}
			}
			for _, v := range next.List() {
				if v.Anonymous() && !exists[v.Name] {
					t.Errorf("%s: the volume of no container is left", at)
				}
			}
			if e := next.index.Read(); slices.ContainsFunc(slices.Collect(func(yield func(entry) bool) {
				for _, v := range e.Volumes {
					if !yield(v) {
						return
					}
				}
			}), func(e entry) bool { return e.Pending }) {
				t.Errorf("%s: pending: %+v", at, e)
			}
		}
	}
}

// TestLostIndex: without the index nothing is removed, and nothing is made anew over what is there.
func TestLostIndex(t *testing.T) {
	h := newFakeHost()
	if _, err := open(t, h).Create(t.Context(), Request{Name: "data"}); err != nil {
		t.Fatal(err)
	}
	delete(h.files, indexPath)
	if _, err := New(t.Context(), h, nil, testLog(t)); err == nil || !strings.Contains(err.Error(), indexPath) {
		t.Errorf("a lost index: %v", err)
	}
	h.files[indexPath] = `{"version":1}`
	open(t, h).Sweep(t.Context(), nobody)
	if len(h.disks()) != 1 {
		t.Error("the disk of a volume that the index does not name was removed")
	}
}

func TestNoDisks(t *testing.T) {
	h := newFakeHost()
	h.noBoot = true
	s := open(t, h)
	if _, err := s.Create(t.Context(), Request{Name: "data"}); !errdefs.IsNotImplemented(err) {
		t.Errorf("a host without a disk to copy: %v", err)
	}
	v, err := s.Create(t.Context(), Request{Name: "mem", Options: map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}})
	if err != nil || v.Disk != "" || v.Place.Kind != KindTmpfs || s.DiskUse(t.Context(), v) != -1 {
		t.Errorf("%+v, %v", v, err)
	}
	if err := s.Remove(t.Context(), "mem", nobody); err != nil {
		t.Error(err)
	}
}

func TestParseOptions(t *testing.T) {
	for _, c := range []struct {
		options map[string]string
		want    Place
	}{
		{nil, Place{Kind: KindDisk, Size: DefaultSize}},
		{map[string]string{"size": "0"}, Place{Kind: KindDisk, Size: DefaultSize}},
		{map[string]string{"size": "67108865"}, Place{Kind: KindDisk, Size: 65 << 20}},
		{map[string]string{"size": "3g"}, Place{Kind: KindDisk, Size: 3 << 30}},
		{map[string]string{"type": "nfs", "o": "addr=10.0.0.1,rw,nfsvers=4", "device": ":/export"}, Place{Kind: KindNFS, Address: "10.0.0.1", Path: "/export", Options: "rw,nfsvers=4"}},
		{map[string]string{"type": "nfs4", "o": "addr=server", "device": ":/"}, Place{Kind: KindNFS, Address: "server", Path: "/", Options: "vers=4"}},
		{map[string]string{"type": "nfs", "device": "server:/a/b"}, Place{Kind: KindNFS, Address: "server", Path: "/a/b"}},
		{map[string]string{"type": "nfs", "device": "[fd00::1]:/a"}, Place{Kind: KindNFS, Address: "fd00::1", Path: "/a"}},
		{map[string]string{"type": "nfs", "device": ":/a", "o": "soft,addr=[fd00::1]"}, Place{Kind: KindNFS, Address: "fd00::1", Path: "/a", Options: "soft"}},
		{map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=100m,uid=1000"}, Place{Kind: KindTmpfs, Options: "size=100m,uid=1000"}},
	} {
		if got, err := ParseOptions(c.options); err != nil || got != c.want {
			t.Errorf("%v: %+v, %v", c.options, got, err)
		}
	}
	for text, options := range map[string]map[string]string{
		`invalid option: "foo"`:             {"foo": "1"},
		`missing required option: "device"`: {"type": "nfs"},
		`missing required option: "type"`:   {"device": ":/a"},
		"invalid size":                      {"size": "x"},
		"size=20t is not possible":          {"size": "20t"},
		"size=1g is of a volume":            {"size": "1g", "type": "tmpfs", "device": "tmpfs"},
		"needs its server":                  {"type": "nfs", "device": ":/a"},
		`invalid device "a"`:                {"type": "nfs", "device": "a"},
		`invalid device ":a"`:               {"type": "nfs", "device": ":a"},
		"Invalid tmpfs option":              {"type": "tmpfs", "device": "tmpfs", "o": "bogus"},
		"cannot mount the host's /srv":      {"type": "none", "device": "/srv", "o": "bind"},
		`volumes of type "cifs" are not`:    {"type": "cifs", "device": "//a/b", "o": "addr=a"},
		`volumes of type "ext4" are not`:    {"type": "ext4", "device": "/dev/sda1"},
	} {
		if _, err := ParseOptions(options); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v: %v, want %q", options, err, text)
		}
	}
}

func TestCheckRequest(t *testing.T) {
	for text, r := range map[string]Request{
		"create a: volume name is too short":                             {Name: "a"},
		`create ../x: "../x" includes invalid characters for a local vo`: {Name: "../x"},
		"names should be at most 255":                                    {Name: strings.Repeat("a", 256)},
		`plugin "nfs" not found`:                                         {Name: "ab", Driver: "nfs"},
		"the labels have":                                                {Labels: map[string]string{"a": strings.Repeat("x", 70000)}},
	} {
		if err := r.Check(); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%.40v: %v, want %q", r, err, text)
		}
	}
}

// FuzzIndex: what is read is written and read as the same, and no disk is outside of the directory of volumes.
func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"version":1,"volumes":{"data":{"id":"0123456789abcdef0123456789abcdef","size":1048576,"options":{"size":"64m"}}}}`))
	f.Add([]byte(`{"version":1,"volumes":{"mem":{"options":{"type":"tmpfs","device":"x"}}}}`))
	f.Add([]byte(`{"version":1,"volumes":{"data":{"id":"../../etc"}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := decodeIndex(data)
		if err != nil {
			return
		}
		for name, e := range x.Volumes {
			v := volumeOf(name, e, func(path string) string { return path })
			if v.Disk != "" && (strings.Count(v.Disk, "/") != 1 || strings.Contains(v.Disk, "..")) {
				t.Errorf("%q is the disk %q", data, v.Disk)
			}
		}
	})
}
