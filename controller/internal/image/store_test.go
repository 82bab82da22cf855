package image

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/internal/testimage"
	"github.com/containervm/containervm/tether/link/linktest"
)

func loadInto(t *testing.T, s *Store, images ...testimage.Image) {
	t.Helper()
	if _, err := s.Load(t.Context(), testimage.Reader(testimage.DockerArchive(images...)), ignore); err != nil {
		t.Fatal(err)
	}
}

func nobody(digest.Digest) []User { return nil }

func users(of digest.Digest, u ...User) InUse {
	return func(id digest.Digest) []User {
		if id == of {
			return u
		}
		return nil
	}
}

func TestStoreSurvivesRestart(t *testing.T) {
	h := newFakeHost(t)
	img := demo("kept:1", "a", "b")
	loadInto(t, newStore(t, h), img)
	checkImage(t, h, newStore(t, h), img, "kept:1")
}

func TestStartSweeps(t *testing.T) {
	h := newFakeHost(t)
	img := demo("kept:1", "a")
	loadInto(t, newStore(t, h), img)
	stray := vsphere.Ref{Type: "VirtualMachine", Value: "stray"}
	other := vsphere.Ref{Type: "VirtualMachine", Value: "other"}
	h.vms[stray] = &fakeVM{VM: vsphere.VM{Ref: stray, Extra: map[string]string{record.KeyRole: record.RoleUnpacker}}, tether: linktest.NewTether(t)}
	h.vms[other] = &fakeVM{VM: vsphere.VM{Ref: other, Extra: map[string]string{record.KeyRole: record.RoleContainer}}}
	lost := digest.FromString("a layer that was frozen, but never got into the index")
	h.files["cvm/layers/cvm-unpacker-1-0.partial.vmdk"] = nil
	h.files[diskPath(lost)] = nil
	h.files["cvm/layers/README"] = nil

	s := newStore(t, h)
	if h.vms[stray] != nil || h.vms[other] == nil {
		t.Error("the stray unpacker is there, or the container is gone")
	}
	if got, want := h.layers(), []string{"README", digest.FromBytes(img.Layers[0]).Encoded() + ".vmdk"}; len(got) != 2 || !slices.Contains(got, want[0]) || !slices.Contains(got, want[1]) {
		t.Errorf("files are %q, want %q", got, want)
	}
	checkImage(t, h, s, img, "kept:1")
}

func TestStartSweepsLayersOfNoImage(t *testing.T) {
	h := newFakeHost(t)
	s := newStore(t, h)
	bad := demo("bad:1", "a", "b")
	files := change(testimage.DockerArchive(bad), "0-1/", replace("content", "CONTENT"))
	if _, err := s.Load(t.Context(), testimage.Reader(files), ignore); err == nil {
		t.Fatal("the load succeeded")
	}
	if n := len(h.layers()); n != 1 {
		t.Fatalf("%d layers, want the first one", n)
	}
	h.nothingLeft(newStore(t, h))
	if n := len(h.layers()); n != 0 {
		t.Errorf("%d layers are left after a start", n)
	}
}

func TestStartRefusesToForgetLayers(t *testing.T) {
	for name, spoil := range map[string]func(*fakeHost){
		"index missing": func(h *fakeHost) { delete(h.files, indexPath) },
		"index torn":    func(h *fakeHost) { h.files[indexPath] = h.files[indexPath][:20] },
		"index newer":   func(h *fakeHost) { h.files[indexPath] = []byte(`{"version":2}`) },
		"unreadable":    func(h *fakeHost) { h.setFailure("Download", io.ErrUnexpectedEOF) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newFakeHost(t)
			loadInto(t, newStore(t, h), demo("a:1", "a"))
			spoil(h)
			if _, err := New(t.Context(), h, nil, slog.New(slog.DiscardHandler)); err == nil {
				t.Error("the store opened")
			}
			if n := len(h.layers()); n != 1 {
				t.Errorf("%d layers are left, want 1", n)
			}
		})
	}
}

func TestResolve(t *testing.T) {
	h := newFakeHost(t)
	s := newStore(t, h)
	img := demo("busybox:latest", "a")
	img.Tags = append(img.Tags, "example.com:5000/team/app:v1")
	loadInto(t, s, img)
	id := img.ID()
	for _, ref := range []string{"busybox", "busybox:latest", "library/busybox", "docker.io/library/busybox:latest", "example.com:5000/team/app:v1",
		id.String(), id.Encoded(), id.Encoded()[:12], "sha256:" + id.Encoded()[:8]} {
		if got, err := s.Resolve(ref); err != nil || got.ID != id {
			t.Errorf("Resolve(%q) = %s, %v", ref, got.ID, err)
		}
	}
	for ref, want := range map[string]string{
		"nothing":                   "No such image: nothing:latest",
		"busybox:other":             "No such image: busybox:other",
		"example.com:5000/team/app": "No such image: example.com:5000/team/app:latest",
		"deadbeef":                  "No such image: deadbeef:latest",
	} {
		if _, err := s.Resolve(ref); !errdefs.IsNotFound(err) || err.Error() != want {
			t.Errorf("Resolve(%q): %v, want %q", ref, err, want)
		}
	}
	if _, err := s.Resolve("UPPER CASE"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a malformed name: %v", err)
	}
	if got, _ := s.Resolve("busybox"); !slices.Equal(got.RepoTags, []string{"busybox:latest", "example.com:5000/team/app:v1"}) {
		t.Errorf("RepoTags = %q", got.RepoTags)
	}
}

func TestTagMoves(t *testing.T) {
	s := newStore(t, newFakeHost(t))
	a, b := demo("a:1", "a"), demo("b:1", "b")
	loadInto(t, s, a, b)
	if err := s.Tag(t.Context(), "a:1", "b:1"); err != nil {
		t.Fatal(err)
	}
	if got, _ := s.Resolve("b:1"); got.ID != a.ID() {
		t.Error("the tag did not move")
	}
	if got, err := s.Resolve(b.ID().String()); err != nil || len(got.RepoTags) != 0 {
		t.Errorf("the image that lost its tag: %q, %v", got.RepoTags, err)
	}
	if err := s.Tag(t.Context(), "a:1", "x@"+a.ID().String()); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a tag with a digest: %v", err)
	}
	if err := s.Tag(t.Context(), "none", "x"); !errdefs.IsNotFound(err) {
		t.Errorf("a tag of nothing: %v", err)
	}
}

func TestRemove(t *testing.T) {
	img := demo("app:1", "base", "top")
	id, other := img.ID(), demo("other:1", "base", "else")
	chains, _ := chainIDs(img.RawConfig())
	stopped, running := User{Container: strings.Repeat("c", 64)}, User{Container: strings.Repeat("d", 64), Running: true}
	gone := []image.DeleteResponse{{Untagged: "app:1"}, {Deleted: id.String()}, {Deleted: chains[1].String()}}
	for name, c := range map[string]struct {
		ref    string
		force  bool
		also   string // further tag
		inUse  InUse
		want   []image.DeleteResponse
		err    string
		layers int
	}{
		"by name":               {ref: "app:1", want: gone, layers: 2},
		"by ID":                 {ref: id.String(), want: gone, layers: 2},
		"by prefix":             {ref: id.Encoded()[:10], want: gone, layers: 2},
		"one of two names":      {ref: "app:1", also: "app:2", want: []image.DeleteResponse{{Untagged: "app:1"}}, layers: 3},
		"by ID, two names":      {ref: id.String(), also: "app:2", want: slices.Insert(slices.Clone(gone), 1, image.DeleteResponse{Untagged: "app:2"}), layers: 2},
		"by ID, two repos":      {ref: id.String(), also: "x:1", err: "(must be forced) - image is referenced in multiple repositories", layers: 3},
		"by ID, two, forced":    {ref: id.String(), force: true, also: "x:1", want: slices.Insert(slices.Clone(gone), 1, image.DeleteResponse{Untagged: "x:1"}), layers: 2},
		"used, by name":         {ref: "app:1", inUse: users(id, stopped), err: `conflict: unable to remove repository reference "app:1" (must force) - container cccccccccccc is using its referenced image ` + shortID(id), layers: 3},
		"used, by ID":           {ref: id.String(), inUse: users(id, stopped), err: "conflict: unable to delete " + shortID(id) + " (must be forced) - image is being used by stopped container cccccccccccc", layers: 3},
		"used, forced":          {ref: "app:1", force: true, inUse: users(id, stopped), want: gone[:2], layers: 3},
		"running, by ID":        {ref: id.String(), force: true, inUse: users(id, running), err: "(cannot be forced) - image is being used by running container dddddddddddd", layers: 3},
		"running, name, forced": {ref: "app:1", force: true, inUse: users(id, running), want: gone[:1], layers: 3},
		"no image":              {ref: "none", err: "No such image: none:latest", layers: 3},
	} {
		t.Run(name, func(t *testing.T) {
			h := newFakeHost(t)
			s := newStore(t, h)
			loadInto(t, s, img, other)
			if c.also != "" {
				if err := s.Tag(t.Context(), "app:1", c.also); err != nil {
					t.Fatal(err)
				}
			}
			if c.inUse == nil {
				c.inUse = nobody
			}
			got, err := s.Remove(t.Context(), c.ref, c.force, c.inUse)
			if fmt.Sprint(err) != c.err && (c.err == "" || err == nil || !strings.Contains(err.Error(), c.err)) && (err != nil || c.err != "") {
				t.Errorf("error is %v, want %q", err, c.err)
			}
			if err != nil && !errdefs.IsConflict(err) && !errdefs.IsNotFound(err) {
				t.Errorf("error %v is of the wrong class", err)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("Remove = %v, want %v", got, c.want)
			}
			if n := len(h.layers()); n != c.layers {
				t.Errorf("%d layers are left, want %d", n, c.layers)
			}
			checkImage(t, h, s, other, "other:1")
		})
	}
}

func TestLayersOfRemovedImageStayForItsContainers(t *testing.T) {
	h := newFakeHost(t)
	s := newStore(t, h)
	img := demo("app:1", "a", "b")
	loadInto(t, s, img)
	inUse := users(img.ID(), User{Container: "c"})
	if _, err := s.Remove(t.Context(), "app:1", true, inUse); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resolve(img.ID().String()); !errdefs.IsNotFound(err) || len(s.List()) != 0 {
		t.Errorf("the image is still there: %v", err)
	}
	s = newStore(t, h)
	if n := len(h.layers()); n != 2 {
		t.Fatalf("%d layers after a restart, want 2", n)
	}
	if err := s.Released(t.Context(), img.ID(), inUse); err != nil || len(h.layers()) != 2 {
		t.Errorf("released by one of two containers: %v, %d layers are left, want 2", err, len(h.layers()))
	}
	if err := s.Released(t.Context(), img.ID(), nobody); err != nil || len(h.layers()) != 0 {
		t.Errorf("released by the last container: %v, %d layers are left, want none", err, len(h.layers()))
	}
}

func TestAcquiredImageIsNotDeleted(t *testing.T) {
	h := newFakeHost(t)
	s := newStore(t, h)
	loadInto(t, s, demo("app:1", "a", "b"))
	_, release, err := s.Acquire("app:1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(t.Context(), "app:1", true, nobody); err != nil {
		t.Fatal(err)
	}
	if n := len(h.layers()); n != 2 {
		t.Errorf("%d layers, want 2", n)
	}
	release()
	release()
	if _, _, err := s.Collect(t.Context(), nobody); err != nil || len(h.layers()) != 0 {
		t.Errorf("%d layers are left, %v", len(h.layers()), err)
	}
}

func TestPrune(t *testing.T) {
	h := newFakeHost(t)
	s := newStore(t, h)
	tagged, dangling, used := demo("app:1", "a"), demo("", "b"), demo("", "c")
	loadInto(t, s, tagged, dangling, used)
	inUse := users(used.ID(), User{Container: "c"})
	gone, freed, err := s.Prune(t.Context(), false, nil, inUse)
	if err != nil || len(gone) != 2 || gone[0].Deleted != dangling.ID().String() || freed != int64(len("content of b")+len(dangling.Layers[0])) {
		t.Errorf("Prune = %v, %d, %v", gone, freed, err)
	}
	gone, _, err = s.Prune(t.Context(), true, func(img Image) bool { return img.ID == tagged.ID() }, inUse)
	if err != nil || len(gone) != 3 || gone[0].Untagged != "app:1" {
		t.Errorf("Prune of all = %v, %v", gone, err)
	}
	if n := len(s.List()); n != 1 {
		t.Errorf("%d images, want the used one", n)
	}
}

func FuzzDecodeIndex(f *testing.F) {
	h := newFakeHost(f)
	s := newStore(f, h)
	if _, err := s.Load(f.Context(), testimage.Reader(testimage.Layout(demo("a:1", "x", "y"))), ignore); err != nil {
		f.Fatal(err)
	}
	f.Add(h.files[indexPath])
	f.Add([]byte(`{"version":1,"layers":{"sha256:00":{"parent":"sha256:00"}}}`))
	f.Add([]byte(`{"version":1,"images":null,"tags":{"a":"b"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := decodeIndex(data)
		if err != nil {
			return
		}
		again, err := json.Marshal(x)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeIndex(again); err != nil {
			t.Errorf("what was decoded is refused when encoded again: %v", err)
		}
		for id := range x.Images {
			_ = s.image(x, id)
		}
		x.dropUnreferenced(func(digest.Digest) bool { return false })
	})
}
