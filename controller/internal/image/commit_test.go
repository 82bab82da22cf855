package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containervm/containervm/internal/testimage"
)

// changed is what a container of an image changed: a file, and another is gone.
func changed() []byte {
	return testimage.Layer(testimage.Entry{Name: "new", Body: "of the container"}, testimage.Entry{Name: ".wh.a"})
}

func optionsOf(img testimage.Image) CommitOptions {
	return CommitOptions{
		Parent: img.ID(), Name: "made:1", Author: "me", Comment: "what I did", Changes: []string{`CMD ["new"]`, "ENV A=b"},
		Config: dockerspec.DockerOCIImageConfig{ImageConfig: ocispec.ImageConfig{Cmd: []string{"sh", "-c", "x"}}},
	}
}

func TestCommit(t *testing.T) {
	h := newFakeHost(t)
	s := newStore(t, h)
	base := demo("base:1", "a", "b")
	loadInto(t, s, base)
	layer := changed()
	id, err := s.Commit(t.Context(), bytes.NewReader(layer), optionsOf(base))
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.Resolve("made:1")
	if err != nil || img.ID != id {
		t.Fatalf("made:1 is %s, not %s (%v)", img.ID, id, err)
	}
	if want := append(slices.Clone(base.Layers), layer); !slices.EqualFunc(reversed(h.disk(img.TopDisk)), want, bytes.Equal) {
		t.Error("its disks are not the image's and the change")
	}
	last := img.Config.History[len(img.Config.History)-1]
	if last.CreatedBy != "sh -c x" || last.Comment != "what I did" || last.Author != "me" || last.EmptyLayer || img.Config.Author != "me" {
		t.Errorf("history is %+v", last)
	}
	if c := img.Docker.Config; !slices.Equal(c.Cmd, []string{"new"}) || !slices.Equal(c.Env, []string{"A=b"}) {
		t.Errorf("configuration is %+v", c)
	}
	m, err := decodeManifest(img.Manifest)
	if err != nil || len(m.Layers) != 3 || m.Layers[2].MediaType != ocispec.MediaTypeImageLayerGzip || m.Layers[0].Digest != digest.FromBytes(base.Layers[0]) {
		t.Errorf("manifest is %s (%v)", img.Manifest, err)
	}
	h.nothingLeft(s)

	other := newStore(t, newFakeHost(t))
	if _, err := other.Load(t.Context(), bytes.NewReader(saved(t, s, "made:1")), ignore); err != nil {
		t.Fatal(err)
	}
	if got, err := other.Resolve("made:1"); err != nil || got.ID != id {
		t.Errorf("saved and loaded it is %s (%v)", got.ID, err)
	}
}

func reversed(all [][]byte) [][]byte { slices.Reverse(all); return all }

// TestCommitOfNothing: a container that changed nothing adds no layer.
func TestCommitOfNothing(t *testing.T) {
	h := newFakeHost(t)
	s := newStore(t, h)
	base := demo("base:1", "a")
	loadInto(t, s, base)
	var empty bytes.Buffer
	tar.NewWriter(&empty).Close()
	for _, layer := range [][]byte{empty.Bytes(), nil} {
		if _, err := s.Commit(t.Context(), bytes.NewReader(layer), optionsOf(base)); err != nil {
			t.Fatal(err)
		}
		img, _ := s.Resolve("made:1")
		if last := img.Config.History[1]; len(img.ChainIDs) != 1 || !last.EmptyLayer {
			t.Errorf("%d layers, history %+v", len(img.ChainIDs), last)
		}
	}
	if _, ever := h.machines(); ever != 1 {
		t.Errorf("%d VMs were made, want 1", ever)
	}
}

// TestCommitOfRemovedImage: a container's image may have been removed by force.
func TestCommitOfRemovedImage(t *testing.T) {
	h := newFakeHost(t)
	s := newStore(t, h)
	base := demo("base:1", "a")
	loadInto(t, s, base)
	inUse := users(base.ID(), User{Container: "c"})
	if _, err := s.Remove(t.Context(), "base:1", true, inUse); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(t.Context(), bytes.NewReader(changed()), optionsOf(base)); err != nil {
		t.Fatal(err)
	}
	if err := s.Released(t.Context(), base.ID(), nobody); err != nil {
		t.Fatal(err)
	}
	if img, err := s.Resolve("made:1"); err != nil || len(img.ChainIDs) != 2 || len(s.List()) != 1 {
		t.Errorf("made:1 has %d layers (%v)", len(img.ChainIDs), err)
	}
	h.nothingLeft(s)
}

func TestCommitRefuses(t *testing.T) {
	h := newFakeHost(t)
	s := newStore(t, h)
	base := demo("base:1", "a")
	loadInto(t, s, base)
	for name, c := range map[string]struct {
		layer io.Reader
		spoil func(*CommitOptions)
		is    func(error) bool
	}{
		"name":      {spoil: func(o *CommitOptions) { o.Name = "UPPER" }, is: errdefs.IsInvalidArgument},
		"digest":    {spoil: func(o *CommitOptions) { o.Name = "a@" + base.ID().String() }, is: errdefs.IsInvalidArgument},
		"change":    {spoil: func(o *CommitOptions) { o.Changes = []string{"RUN x"} }, is: errdefs.IsInvalidArgument},
		"no parent": {spoil: func(o *CommitOptions) { o.Parent = digest.FromString("none") }, is: errdefs.IsNotFound},
		"cut off": {
			layer: io.MultiReader(bytes.NewReader(changed()[:700]), iotest.ErrReader(errors.New("the guest is gone"))),
			spoil: func(*CommitOptions) {}, is: func(err error) bool { return err != nil },
		},
	} {
		o := optionsOf(base)
		c.spoil(&o)
		if c.layer == nil {
			c.layer = bytes.NewReader(changed())
		}
		if _, err := s.Commit(t.Context(), c.layer, o); !c.is(err) {
			t.Errorf("%s: %v", name, err)
		}
		if len(s.List()) != 1 {
			t.Errorf("%s: there is another image", name)
		}
		h.nothingLeft(s)
	}
	if len(s.pins.count) != 0 {
		t.Errorf("pins are left: %v", s.pins.count)
	}
}

// TestCommitIsKilled ends the controller at each of its calls to the host: the next one finds the new image whole, or nothing of it.
func TestCommitIsKilled(t *testing.T) {
	base := demo("base:1", "a")
	for after, complete := 0, false; !complete; after++ {
		h := newFakeHost(t)
		first := newStore(t, h)
		loadInto(t, first, base)
		revive := h.kill(after)
		_, err := first.Commit(t.Context(), bytes.NewReader(changed()), optionsOf(base))
		complete = revive()
		s := newStore(t, h)
		h.nothingLeft(s)
		if _, found := s.Resolve("made:1"); (found == nil) != (err == nil) {
			t.Errorf("killed after %d calls: %v, but there is %v", after, err, found)
		}
		checkImage(t, h, s, base, "base:1")
	}
}
