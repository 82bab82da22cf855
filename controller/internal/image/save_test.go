package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containervm/containervm/internal/testimage"
)

// saved is the archive of images.
func saved(t *testing.T, s *Store, refs ...string) []byte {
	t.Helper()
	v, err := s.Save(refs)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	var out bytes.Buffer
	if err := v.Write(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func layoutOf(t *testing.T, h *fakeHost, img testimage.Image) *Store {
	t.Helper()
	s := newStore(t, h)
	if _, err := s.Load(t.Context(), testimage.Reader(testimage.Layout(img)), ignore); err != nil {
		t.Fatal(err)
	}
	return s
}

// members is an archive without one of its members. Without manifest.json a saved one is an OCI layout, without index.json a docker-archive.
func members(t *testing.T, archive []byte, but string) []byte {
	t.Helper()
	var files []testimage.File
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return testimage.Archive(files)
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg && h.Name != but {
			files = append(files, testimage.File{Name: h.Name, Data: data})
		}
	}
}

// TestSaveLoads: what was saved is the same image when it is loaded, by either format: ID, manifest, layers' digests, names.
func TestSaveLoads(t *testing.T) {
	for name, compress := range map[string]func([]byte) []byte{"": nil, "+gzip": gzipped, "+zstd": zstandard} {
		img := demo("example.com/team/app:v1", "a", "b", "a")
		img.Compress, img.Suffix = compress, name
		s := layoutOf(t, newFakeHost(t), img)
		want, _ := s.Resolve(string(img.ID()))
		archive := saved(t, s, "example.com/team/app:v1")
		if again := saved(t, s, "example.com/team/app"); !bytes.Equal(archive, again) {
			t.Error("an image saved twice is not the same archive")
		}
		for _, but := range []string{"none", dockerManifest, ocispec.ImageIndexFile} {
			h := newFakeHost(t)
			other := newStore(t, h)
			if _, err := other.Load(t.Context(), bytes.NewReader(members(t, archive, but)), ignore); err != nil {
				t.Fatal(err)
			}
			checkImage(t, h, other, img, "example.com/team/app:v1")
			got, _ := other.Resolve(string(img.ID()))
			if !slices.Equal(got.Blobs, want.Blobs) || !slices.Equal(got.RepoTags, want.RepoTags) {
				t.Errorf("%s without %s: got %v as %q, want %v", name, but, got.Blobs, got.RepoTags, want.Blobs)
			}
			if but != ocispec.ImageIndexFile && but != "none" && !bytes.Equal(got.Manifest, want.Manifest) {
				t.Errorf("%s without %s: the manifest is %s, was %s", name, but, got.Manifest, want.Manifest)
			}
			h.nothingLeft(other)
		}
	}
}

func TestSaveSeveral(t *testing.T) {
	h := newFakeHost(t)
	s := newStore(t, h)
	one, two, bare := demo("one:1", "base", "x"), demo("two:1", "base", "y"), demo("", "z")
	loadInto(t, s, one, two, bare)
	for _, tag := range []string{"one:2", "other:1"} {
		if err := s.Tag(t.Context(), "one:1", tag); err != nil {
			t.Fatal(err)
		}
	}
	h2 := newFakeHost(t)
	s2 := newStore(t, h2)
	archive := saved(t, s, "one", "two:1", bare.ID().String(), bare.ID().Encoded()[:12])
	if _, err := s2.Load(t.Context(), bytes.NewReader(archive), ignore); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, img := range s2.List() {
		names = append(names, img.RepoTags...)
	}
	slices.Sort(names)
	if want := []string{"one:1", "one:2", "two:1"}; !slices.Equal(names, want) || len(s2.List()) != 3 {
		t.Errorf("the archive holds %q in %d images, want %q in 3", names, len(s2.List()), want)
	}
}

func TestSaveRefuses(t *testing.T) {
	h := newFakeHost(t)
	s := newStore(t, h)
	loadInto(t, s, demo("app:1", "a"))
	for ref, want := range map[string]string{
		"app:2": "reference does not exist", "nothing": "No such image: nothing", "sha256:" + strings.Repeat("0", 64): "No such image",
	} {
		if _, err := s.Save([]string{"app:1", ref}); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", ref, err, want)
		}
	}
	if len(s.pins.count) != 0 {
		t.Errorf("pins are left: %v", s.pins.count)
	}
	img, _ := s.Resolve("app:1")
	h.files[blobPath(img.Blobs[0])][0] ^= 1
	v, err := s.Save([]string{"app"})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if err := v.Write(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), "pull it again") {
		t.Errorf("a damaged blob: %v", err)
	}
}

// TestSaveKeepsBlobs: an image that is removed while it is saved is saved whole.
func TestSaveKeepsBlobs(t *testing.T) {
	h := newFakeHost(t)
	s := newStore(t, h)
	loadInto(t, s, demo("app:1", "a"))
	v, err := s.Save([]string{"app:1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(t.Context(), "app:1", false, nobody); err != nil {
		t.Fatal(err)
	}
	if err := v.Write(t.Context(), io.Discard); err != nil {
		t.Error(err)
	}
	v.Close()
	if _, _, err := s.Collect(t.Context(), nobody); err != nil || len(s.index.Read().Blobs) != 0 {
		t.Errorf("blobs are left (%v)", err)
	}
	h.nothingLeft(s)
}
