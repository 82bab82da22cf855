package image

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	dockerregistry "github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containervm/containervm/internal/testimage"
)

// blobsOf are the bytes of an image's blobs as its host has them, lowest first.
func blobsOf(t *testing.T, h *fakeHost, s *Store, ref string) (all [][]byte) {
	t.Helper()
	img, err := s.Resolve(ref)
	if err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range img.Blobs {
		all = append(all, h.files[blobPath(d)])
	}
	return all
}

// TestBlobsAreKept: what came is kept byte by byte, with the manifest that it came with.
func TestBlobsAreKept(t *testing.T) {
	same := func(b []byte) []byte { return b }
	for name, c := range map[string]struct {
		compress func([]byte) []byte
		suffix   string
	}{"plain": {same, ""}, "gzip": {gzipped, "+gzip"}, "zstd": {zstandard, "+zstd"}} {
		img := demo("app:1", "a", "b")
		img.Compress, img.Suffix = c.compress, c.suffix
		want, files := img.Manifest()
		check := func(t *testing.T, h *fakeHost, s *Store) {
			got := blobsOf(t, h, s, string(img.ID()))
			if !slices.EqualFunc(got, img.Layers, func(a, b []byte) bool { return bytes.Equal(a, c.compress(b)) }) {
				t.Errorf("the blobs are not as they came")
			}
			if found, _ := s.Resolve(string(img.ID())); !bytes.Equal(found.Manifest, files[len(files)-1].Data) || found.Type != want.MediaType {
				t.Errorf("the manifest is %s, %s", found.Type, found.Manifest)
			}
			h.nothingLeft(s)
		}
		t.Run(name+" loaded", func(t *testing.T) {
			h := newFakeHost(t)
			s := newStore(t, h)
			if _, err := s.Load(t.Context(), testimage.Reader(testimage.Layout(img)), ignore); err != nil {
				t.Fatal(err)
			}
			check(t, h, s)
			check(t, h, newStore(t, h))
		})
		t.Run(name+" pulled", func(t *testing.T) {
			r, h := newRegistry(t), newFakeHost(t)
			s := newStore(t, h)
			r.push("app", "1", img)
			if err := s.Pull(t.Context(), r.host+"/app:1", dockerregistry.AuthConfig{}, ignore); err != nil {
				t.Fatal(err)
			}
			check(t, h, s)
		})
		t.Run(name+" imported", func(t *testing.T) {
			h := newFakeHost(t)
			s := newStore(t, h)
			if _, err := s.Import(t.Context(), bytes.NewReader(c.compress(img.Layers[0])), ImportOptions{Name: "root"}, ignore); err != nil {
				t.Fatal(err)
			}
			if got := blobsOf(t, h, s, "root"); !bytes.Equal(got[0], c.compress(img.Layers[0])) {
				t.Error("the blob is not as it came")
			}
			h.nothingLeft(s)
		})
	}
}

// TestBlobOfUnknownCompression: images do not know xz, so what came in it is kept by gzip.
func TestBlobOfUnknownCompression(t *testing.T) {
	h := newFakeHost(t)
	s := newStore(t, h)
	// The file is an archive; as a layer it is a tar as well as any.
	if _, err := s.Import(t.Context(), bytes.NewReader(file(t, "image.tar.xz")), ImportOptions{Name: "root"}, ignore); err != nil {
		t.Fatal(err)
	}
	img, _ := s.Resolve("root")
	m, err := decodeManifest(img.Manifest)
	if err != nil || m.Layers[0].MediaType != ocispec.MediaTypeImageLayerGzip || !bytes.HasPrefix(blobsOf(t, h, s, "root")[0], magicGzip) {
		t.Errorf("manifest %s, %v", img.Manifest, err)
	}
	h.nothingLeft(s)
}

// TestBlobsAreShared: one of two images takes the other's blobs along only when nobody needs them.
func TestBlobsAreShared(t *testing.T) {
	h := newFakeHost(t)
	s := newStore(t, h)
	loadInto(t, s, demo("one:1", "base", "x"), demo("two:1", "base", "y"))
	if n := len(s.index.Read().Blobs); n != 3 {
		t.Errorf("%d blobs, want 3", n)
	}
	if _, err := s.Remove(t.Context(), "one:1", false, nobody); err != nil {
		t.Fatal(err)
	}
	if n := len(s.index.Read().Blobs); n != 2 {
		t.Errorf("%d blobs are left, want 2", n)
	}
	h.nothingLeft(s)
	if _, err := s.Remove(t.Context(), "two:1", false, nobody); err != nil {
		t.Fatal(err)
	}
	if n := len(s.index.Read().Blobs); n != 0 {
		t.Errorf("%d blobs are left, want none", n)
	}
	h.nothingLeft(s)
}

// TestBlobsOfEarlierVersion: an image without blobs gets them when it is pulled or loaded again, and its disks stay.
func TestBlobsOfEarlierVersion(t *testing.T) {
	r, h := newRegistry(t), newFakeHost(t)
	s := newStore(t, h)
	img := demo("app:1", "a", "b")
	img.Compress, img.Suffix = gzipped, "+gzip"
	r.push("app", "1", img)
	forget := func() {
		t.Helper()
		err := s.index.Commit(t.Context(), func(x *index) error {
			e := x.Images[img.ID()]
			e.Manifest, e.Type, e.Blobs = nil, "", nil
			x.Images[img.ID()] = e
			return nil
		})
		if _, _, collected := s.Collect(t.Context(), nobody); errors.Join(err, collected) != nil || len(s.index.Read().Blobs) != 0 {
			t.Fatal(err, collected)
		}
	}
	pull := func() {
		t.Helper()
		if err := s.Pull(t.Context(), r.host+"/app:1", dockerregistry.AuthConfig{}, ignore); err != nil {
			t.Fatal(err)
		}
		if got, _ := s.Resolve(string(img.ID())); len(got.Blobs) != 2 || got.Blobs[0] != digest.FromBytes(gzipped(img.Layers[0])) {
			t.Errorf("blobs are %v", got.Blobs)
		}
		h.nothingLeft(s)
	}
	pull()
	forget()
	h.nothingLeft(newStore(t, h))
	pull()
	forget()
	loadInto(t, s, img)
	if got, _ := s.Resolve("app:1"); len(got.Blobs) != 2 {
		t.Errorf("blobs are %v", got.Blobs)
	}
	if _, ever := h.machines(); ever != 1 {
		t.Errorf("%d VMs were made, want 1", ever)
	}
	h.nothingLeft(s)
}

// TestBlobClaimsAnother: a manifest that calls a blob that is there the content of a layer that it is not is refused.
func TestBlobClaimsAnother(t *testing.T) {
	h := newFakeHost(t)
	s := newStore(t, h)
	loadInto(t, s, demo("one:1", "a"), demo("two:1", "b"))
	wrong := demo("wrong:1", "a", "b")
	files := testimage.Layout(wrong)
	a, b := digest.FromBytes(wrong.Layers[0]).String(), digest.FromBytes(wrong.Layers[1]).String()
	swap := strings.NewReplacer(a, b, b, a)
	var manifest []byte
	for i, f := range files {
		if d := digest.FromBytes(f.Data); f.Name == blobName(d) && strings.Contains(string(f.Data), ocispec.MediaTypeImageManifest) {
			manifest = []byte(swap.Replace(string(f.Data)))
			files[i] = testimage.File{Name: blobName(digest.FromBytes(manifest)), Data: manifest}
			change(files, "index.json", replace(d.String(), digest.FromBytes(manifest).String()))
		}
	}
	if _, err := s.Load(t.Context(), testimage.Reader(files), ignore); err == nil || !strings.Contains(err.Error(), "demands") {
		t.Errorf("error is %v", err)
	}
	if n := len(s.List()); n != 2 {
		t.Errorf("%d images, want 2", n)
	}
	h.nothingLeft(s)
}
