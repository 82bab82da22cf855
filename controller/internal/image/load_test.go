package image

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containervm/containervm/internal/testimage"
)

func demo(tag string, files ...string) testimage.Image {
	img := testimage.Image{Config: ocispec.ImageConfig{Cmd: []string{"sh"}}}
	if tag != "" {
		img.Tags = []string{tag}
	}
	for _, f := range files {
		img.Layers = append(img.Layers, testimage.Layer(testimage.Entry{Name: f, Body: "content of " + f}))
	}
	return img
}

// progressLog records progress.
type progressLog struct {
	mu  sync.Mutex
	all []Event
}

func (e *progressLog) add(ev Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
}

// lines are the streams and the statuses without bytes.
func (e *progressLog) lines() []string {
	var out []string
	for _, ev := range e.all {
		if ev.Current == 0 {
			out = append(out, strings.TrimSpace(strings.Join([]string{ev.ID, ev.Status, ev.Stream}, " ")))
		}
	}
	return out
}

func ignore(Event) {}

func gzipped(data []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	w.Write(data)
	w.Close()
	return buf.Bytes()
}

func zstandard(data []byte) []byte {
	w, _ := zstd.NewWriter(nil)
	return w.EncodeAll(data, nil)
}

// skippable is data compressed by zstd behind two skippable frames, as pzstd makes them (RFC 8878, 3.1.2).
func skippable(data []byte) []byte {
	frames := []byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4, 0x5f, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}
	return append(frames, zstandard(data)...)
}

// hugeXZ says that its decoder needs 4 GiB of memory.
func hugeXZ(t *testing.T) []byte {
	data := slices.Clone(file(t, "image.tar.xz"))
	header := data[12 : 12+(int(data[12])+1)*4] // of the first block: xz file format, 3.1
	const filter = 2                            // LZMA2's ID, the size of its properties, the dictionary's size
	if header[filter] != 0x21 {
		t.Fatalf("the first filter is %#x", header[filter])
	}
	header[filter+2] = 40
	binary.LittleEndian.PutUint32(header[len(header)-4:], crc32.ChecksumIEEE(header[:len(header)-4]))
	return data
}

// file is a file of testdata: demo("busybox:demo", "a", "b", "c") as a docker-archive, compressed by the tool of the format's
// authors.
func file(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestLoadFormats(t *testing.T) {
	img := demo("busybox:demo", "a", "b", "c")
	compressed := func(c func([]byte) []byte, suffix string) testimage.Image {
		img := img
		img.Compress, img.Suffix = c, suffix
		return img
	}
	for name, archive := range map[string][]byte{
		"docker-archive":   testimage.Archive(testimage.DockerArchive(img)),
		"OCI layout":       testimage.Archive(testimage.Layout(img)),
		"OCI layout, gzip": testimage.Archive(testimage.Layout(compressed(gzipped, "+gzip"))),
		"OCI layout, zstd": testimage.Archive(testimage.Layout(compressed(zstandard, "+zstd"))),
		"OCI, skippable":   testimage.Archive(testimage.Layout(compressed(skippable, "+zstd"))),
		"both":             testimage.Archive(testimage.Saved(img)),
		"whole gzip":       gzipped(testimage.Archive(testimage.DockerArchive(img))),
		"whole zstd":       zstandard(testimage.Archive(testimage.Layout(img))),
		"whole xz":         file(t, "image.tar.xz"),
		"whole bzip2":      file(t, "image.tar.bz2"),
		"whole, skippable": skippable(testimage.Archive(testimage.Layout(img))),
	} {
		t.Run(name, func(t *testing.T) {
			h := newFakeHost(t)
			s := newStore(t, h)
			var e progressLog
			got, err := s.Load(t.Context(), bytes.NewReader(archive), e.add)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, []string{"busybox:demo"}) {
				t.Errorf("Load = %q", got)
			}
			if last := e.lines()[len(e.lines())-1]; last != "Loaded image: busybox:demo" {
				t.Errorf("last line is %q", last)
			}
			checkImage(t, h, s, img, "busybox:demo")
			h.nothingLeft(s)
		})
	}
}

// checkImage holds an image of the store, and its disks, against what was loaded.
func checkImage(t *testing.T, h *fakeHost, s *Store, want testimage.Image, ref string) {
	t.Helper()
	got, err := s.Resolve(ref)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != want.ID() {
		t.Errorf("ID = %s, want %s", got.ID, want.ID())
	}
	if !slices.Equal(got.Config.Config.Cmd, want.Config.Cmd) {
		t.Errorf("Cmd = %q, want %q", got.Config.Config.Cmd, want.Config.Cmd)
	}
	disks := h.disk(got.TopDisk)
	slices.Reverse(disks)
	if !slices.EqualFunc(disks, want.Layers, bytes.Equal) {
		t.Errorf("%d disks do not hold the %d layers", len(disks), len(want.Layers))
	}
}

func TestLoadSeveral(t *testing.T) {
	h := newFakeHost(t)
	s := newStore(t, h)
	one, two, bare := demo("one", "base", "x"), demo("example.com/team/two:v2", "base", "y"), demo("", "z")
	got, err := s.Load(t.Context(), testimage.Reader(testimage.Layout(one, two, bare)), ignore)
	if err != nil {
		t.Fatal(err)
	}
	// A bare word as name says neither repository nor tag, so the first image has no name.
	if want := []string{one.ID().String(), "example.com/team/two:v2", bare.ID().String()}; !slices.Equal(got, want) {
		t.Errorf("Load = %q, want %q", got, want)
	}
	checkImage(t, h, s, one, one.ID().String())
	checkImage(t, h, s, two, "example.com/team/two:v2")
	if n := len(h.layers()); n != 4 {
		t.Errorf("%d layers, want 4: the base is shared", n)
	}
	h.nothingLeft(s)
}

func TestLoadAgainBootsNoVM(t *testing.T) {
	h := newFakeHost(t)
	s := newStore(t, h)
	for range 2 {
		if _, err := s.Load(t.Context(), testimage.Reader(testimage.DockerArchive(demo("a:b", "f"))), ignore); err != nil {
			t.Fatal(err)
		}
	}
	if _, ever := h.machines(); ever != 1 {
		t.Errorf("%d VMs were made, want 1", ever)
	}
}

func TestScratchImage(t *testing.T) {
	h := newFakeHost(t)
	s := newStore(t, h)
	if _, err := s.Load(t.Context(), testimage.Reader(testimage.Layout(demo("scratch:1"))), ignore); err != nil {
		t.Fatal(err)
	}
	img, err := s.Resolve("scratch:1")
	if err != nil || img.TopDisk != h.Boot().Blank {
		t.Errorf("TopDisk = %q, %v", img.TopDisk, err)
	}
}

func TestLoadLinkedLayers(t *testing.T) {
	h := newFakeHost(t)
	s := newStore(t, h)
	img := demo("linked:1", "same", "same")
	files := testimage.DockerArchive(img)
	for i := range files {
		if files[i].Name == "0-1/layer.tar" {
			files[i] = testimage.File{Name: files[i].Name, Link: "../0-0/layer.tar"}
		}
	}
	if _, err := s.Load(t.Context(), testimage.Reader(files), ignore); err != nil {
		t.Fatal(err)
	}
	checkImage(t, h, s, img, "linked:1")
}

func TestConcurrentLoadsUnpackOnce(t *testing.T) {
	h := newFakeHost(t)
	s := newStore(t, h)
	var wg sync.WaitGroup
	for _, img := range []testimage.Image{demo("a:1", "base", "mid", "a"), demo("b:1", "base", "mid", "b"), demo("c:1", "base", "mid", "c"), demo("a:2", "base", "mid", "a")} {
		wg.Go(func() {
			if _, err := s.Load(t.Context(), testimage.Reader(testimage.DockerArchive(img)), ignore); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(h.layers()); n != 5 { // AttachDelta and MoveFile of the fake fail when one is made twice
		t.Errorf("%d layers, want 5", n)
	}
	h.nothingLeft(s)
}

// change edits the file of an archive whose name begins with prefix.
func change(files []testimage.File, prefix string, edit func([]byte) []byte) []testimage.File {
	for i, f := range files {
		if strings.HasPrefix(f.Name, prefix) {
			files[i].Data = edit(f.Data)
		}
	}
	return files
}

func replace(old, new string) func([]byte) []byte {
	return func(data []byte) []byte { return bytes.ReplaceAll(data, []byte(old), []byte(new)) }
}

func without(files []testimage.File, prefix string) []testimage.File {
	return slices.DeleteFunc(files, func(f testimage.File) bool { return strings.HasPrefix(f.Name, prefix) })
}

func TestLoadRefuses(t *testing.T) {
	img := demo("bad:1", "a", "b")
	layer1 := digest.FromBytes(img.Layers[1])
	arm := img
	arm.Platform = ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
	notTar := img
	notTar.Layers = [][]byte{testimage.Evil()["not a tar"]}
	schema1 := testimage.Layout(img)
	change(schema1, "index.json", replace(ocispec.MediaTypeImageManifest, typeSchema1Signed))
	for name, c := range map[string]struct {
		archive []byte
		want    string
	}{
		"nothing":            {nil, "no image archive"},
		"not a tar":          {[]byte(strings.Repeat("rubbish", 1000)), "cannot read the archive"},
		"other tar":          {testimage.Layer(testimage.Entry{Name: "etc/passwd"}), "docker import"},
		"damaged xz":         {[]byte("\xfd7zXZ\x00 and more"), "xz: data is corrupt"},
		"torn xz":            {file(t, "image.tar.xz")[:300], "cannot read the archive: "},
		"xz, huge":           {hugeXZ(t), "xz: LZMA2 dictionary size exceeds max"},
		"torn gzip":          {gzipped(testimage.Archive(testimage.Layout(img)))[:300], "cannot read the archive"},
		"torn tar":           {testimage.Archive(testimage.DockerArchive(img))[:700], "cannot read the archive"},
		"no config":          {testimage.Archive(without(testimage.DockerArchive(img), img.ID().Encoded())), "the archive has no"},
		"no layer":           {testimage.Archive(without(testimage.DockerArchive(img), "0-1/")), "the archive has no"},
		"no blob":            {testimage.Archive(without(testimage.Layout(img), blobName(layer1))), "the archive has no"},
		"config's digest":    {testimage.Archive(change(testimage.DockerArchive(img), img.ID().Encoded(), replace("sh", "hs"))), "has the digest"},
		"config blob":        {testimage.Archive(change(testimage.Layout(img), blobName(img.ID()), replace("sh", "hs"))), "has the digest"},
		"diff ID":            {testimage.Archive(change(testimage.DockerArchive(img), "0-1/", replace("content", "CONTENT"))), "as the image's configuration demands"},
		"layer blob":         {testimage.Archive(change(testimage.Layout(img), blobName(layer1), replace("content", "CONTENT"))), "as the image's configuration demands"},
		"too few layers":     {testimage.Archive(change(testimage.DockerArchive(img), "manifest.json", replace(`,"0-1/layer.tar"`, ""))), "2 diff IDs for 1 layers"},
		"manifest not JSON":  {testimage.Archive(change(testimage.DockerArchive(img), "manifest.json", replace("[", "("))), "cannot read manifest.json"},
		"manifest too large": {testimage.Archive([]testimage.File{{Name: "manifest.json", Data: make([]byte, MaxManifestBytes+1)}}), "more than"},
		"index too large":    {testimage.Archive([]testimage.File{{Name: "index.json", Data: make([]byte, MaxManifestBytes+1)}}), "more than"},
		"no image":           {testimage.Archive([]testimage.File{{Name: "manifest.json", Data: []byte("[]")}}), "holds no image"},
		"arm64, docker":      {testimage.Archive(testimage.DockerArchive(arm)), "linux/arm64"},
		"arm64, OCI":         {testimage.Archive(testimage.Layout(arm)), "there is linux/arm64/v8"},
		"layer type":         {testimage.Archive(retype(img, "application/vnd.oci.image.layer.v1.tar+encrypted")), "+encrypted"},
		"schema 1":           {testimage.Archive(schema1), "schema version 1"},
		"index type":         {testimage.Archive(change(testimage.Layout(img), "index.json", replace(ocispec.MediaTypeImageManifest, "text/plain"))), "text/plain"},
		"tag":                {testimage.Archive(change(testimage.DockerArchive(img), "manifest.json", replace("bad:1", "BAD:::"))), "invalid reference format"},
		"links in a circle":  {testimage.Archive([]testimage.File{{Name: "manifest.json", Link: "x"}, {Name: "x", Link: "manifest.json"}}), "the archive has no"},
		"layer not a tar":    {testimage.Archive(testimage.DockerArchive(notTar)), "cannot unpack layer"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newFakeHost(t)
			s := newStore(t, h)
			_, err := s.Load(t.Context(), bytes.NewReader(c.archive), ignore)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want one with %q", err, c.want)
			}
			if n := len(s.List()); n != 0 {
				t.Errorf("%d images are there", n)
			}
			h.nothingLeft(s)
		})
	}
}

// retype is a layout whose manifest gives the layers another media type.
func retype(img testimage.Image, mediaType string) []testimage.File {
	desc, blobs := img.Manifest()
	manifest := bytes.ReplaceAll(blobs[len(blobs)-1].Data, []byte(`"`+ocispec.MediaTypeImageLayer+`"`), []byte(`"`+mediaType+`"`))
	d := digest.FromBytes(manifest)
	desc.Digest, desc.Size = d, int64(len(manifest))
	index, _ := json.Marshal(ocispec.Index{Manifests: []ocispec.Descriptor{desc}})
	return append(blobs, testimage.File{Name: blobName(d), Data: manifest}, testimage.File{Name: "index.json", Data: index})
}

func TestLoadNestedIndexSkipsAttestations(t *testing.T) {
	h := newFakeHost(t)
	s := newStore(t, h)
	img, other := demo("", "a"), demo("", "b")
	other.Platform = ocispec.Platform{OS: "linux", Architecture: "s390x"}
	desc, blobs := img.Manifest()
	otherDesc, otherBlobs := other.Manifest()
	attestation := ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("attestation"), Size: 1,
		Platform:    &ocispec.Platform{OS: "unknown", Architecture: "unknown"},
		Annotations: map[string]string{annotationReferenceType: "attestation-manifest"},
	}
	inner, _ := json.Marshal(ocispec.Index{Manifests: []ocispec.Descriptor{otherDesc, attestation, desc}})
	outer, _ := json.Marshal(ocispec.Index{Manifests: []ocispec.Descriptor{{
		MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(inner), Size: int64(len(inner)),
		Annotations: map[string]string{ocispec.AnnotationRefName: "v1", annotationImageName: "docker.io/library/nested:v1"},
	}}})
	files := slices.Concat(blobs, otherBlobs, []testimage.File{
		{Name: blobName(digest.FromBytes(inner)), Data: inner}, {Name: "index.json", Data: outer},
	})
	got, err := s.Load(t.Context(), testimage.Reader(files), ignore)
	if err != nil || !slices.Equal(got, []string{"nested:v1"}) {
		t.Fatalf("Load = %q, %v", got, err)
	}
	checkImage(t, h, s, img, "nested:v1")
}

func TestCancelledLoadLeavesNothing(t *testing.T) {
	h := newFakeHost(t)
	s := newStore(t, h)
	ctx, cancel := context.WithCancel(t.Context())
	img := demo("c:1", "a", "b")
	_, err := s.Load(ctx, testimage.Reader(testimage.DockerArchive(img)), func(e Event) {
		if e.Status == "Loading layer" {
			cancel()
		}
	})
	if err == nil {
		t.Fatal("a cancelled load succeeded")
	}
	h.nothingLeft(s)
}

func TestHostFailuresLeaveNothing(t *testing.T) {
	for _, operation := range []string{"CreateVM", "PowerOn", "Wait", "Link", "AttachDelta", "DetachDisk", "MoveFile", "Upload"} {
		t.Run(operation, func(t *testing.T) {
			h := newFakeHost(t)
			s := newStore(t, h)
			h.setFailure(operation, io.ErrUnexpectedEOF)
			_, err := s.Load(t.Context(), testimage.Reader(testimage.DockerArchive(demo("f:1", "a"))), ignore)
			if err == nil || !strings.Contains(err.Error(), io.ErrUnexpectedEOF.Error()) {
				t.Errorf("error is %v", err)
			}
			h.nothingLeft(s)
			h.setFailure(operation, nil)
			if _, err := s.Load(t.Context(), testimage.Reader(testimage.DockerArchive(demo("f:1", "a"))), ignore); err != nil {
				t.Errorf("the next load: %v", err)
			}
		})
	}
}
