package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containervm/containervm/internal/testimage"
)

// TestLoadBudget: a small archive that means a lot is refused before it costs that, by the name of what it has too much of.
func TestLoadBudget(t *testing.T) {
	config := []byte(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]},"x":"` + strings.Repeat(" ", MaxConfigBytes-200) + `"}`)
	var items []dockerItem
	for range 250 {
		items = append(items, dockerItem{Config: "config.json"})
	}
	manifest, err := json.Marshal(items)
	if err != nil {
		t.Fatal(err)
	}
	var small []dockerItem
	for range MaxArchiveImages + 1 {
		small = append(small, dockerItem{Config: "config.json"})
	}
	many, err := json.Marshal(small)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		files []testimage.File
		want  string
	}{
		"one configuration of 8 MiB, 250 times": {[]testimage.File{{Name: "manifest.json", Data: manifest}, {Name: "config.json", Data: config}}, "have more than 33554432 bytes"},
		"more images than can be":               {[]testimage.File{{Name: "manifest.json", Data: many}, {Name: "config.json", Data: []byte(`{"os":"linux","rootfs":{"type":"layers"}}`)}}, "more than 1000 images"},
		"indexes within indexes":                {nestedIndexes(60), "more than 1000 images"},
		"long names":                            {longNames(), "have more than 33554432 bytes"},
	} {
		archive := gzipped(testimage.Archive(c.files))
		t.Logf("%s: %d bytes", what, len(archive))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s := newStore(t, newFakeHost(t))
		_, err := s.Load(t.Context(), bytes.NewReader(archive), ignore)
		runtime.ReadMemStats(&after)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error is %v, want one with %q", what, err, c.want)
		}
		if spent := after.TotalAlloc - before.TotalAlloc; spent > 1<<30 {
			t.Errorf("%s: %d MiB were allocated", what, spent>>20)
		}
	}
}

// nestedIndexes is a layout of three levels, in each of which an index names the one below n times, and at last an image.
func nestedIndexes(n int) []testimage.File {
	desc, files := demo("", "x").Manifest()
	for range maxIndexDepth - 1 {
		index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
		index.SchemaVersion = 2
		for range n {
			index.Manifests = append(index.Manifests, desc)
		}
		data, err := json.Marshal(index)
		if err != nil {
			panic(err) // of strings and numbers
		}
		d := digest.FromBytes(data)
		files = append(files, testimage.File{Name: blobName(d), Data: data})
		desc = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: d, Size: int64(len(data))}
	}
	last, err := json.Marshal(ocispec.Index{Manifests: []ocispec.Descriptor{desc}})
	if err != nil {
		panic(err)
	}
	return append(files, testimage.File{Name: ocispec.ImageIndexFile, Data: last})
}

func longNames() (files []testimage.File) {
	for n := range 100 {
		files = append(files, testimage.File{Name: fmt.Sprintf("%d%s", n, strings.Repeat("x", 400<<10))})
	}
	return files
}

// TestLoadsWait: so many archives are read at a time, and who leaves waits no longer.
func TestLoadsWait(t *testing.T) {
	s := newStore(t, newFakeHost(t))
	var held []*io.PipeWriter
	failed := make(chan error, maxLoads)
	for range maxLoads {
		r, w := io.Pipe()
		held = append(held, w)
		go func() {
			_, err := s.Load(t.Context(), r, ignore)
			failed <- err
		}()
	}
	for len(s.loads) < maxLoads {
		runtime.Gosched()
	}
	left, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Load(left, strings.NewReader(""), ignore); err == nil || !strings.Contains(err.Error(), "canceled") {
		t.Errorf("a client that has left: %v", err)
	}
	for _, w := range held {
		w.CloseWithError(io.ErrUnexpectedEOF)
	}
	for range held {
		if err := <-failed; err == nil {
			t.Error("a torn archive was loaded")
		}
	}
}
