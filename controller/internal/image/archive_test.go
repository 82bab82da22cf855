package image

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/containervm/containervm/internal/testimage"
)

func TestArchiveNames(t *testing.T) {
	data := testimage.Layer(
		testimage.Entry{Name: "./index.json", Body: "index"},
		testimage.Entry{Name: "../../up", Body: "up"},
		testimage.Entry{Name: "/abs/../file", Body: "file"},
		testimage.Entry{Name: "d/link", Type: tar.TypeSymlink, Link: "../up"},
		testimage.Entry{Name: "hard", Type: tar.TypeLink, Link: "d/link"},
		testimage.Entry{Name: "fifo", Type: tar.TypeFifo},
		testimage.Entry{Name: "twice", Body: "first"},
		testimage.Entry{Name: "twice", Body: "second"},
	)
	a, err := openArchive(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"index.json": "index", "up": "up", "../up": "up", "file": "file", "hard": "up", "twice": "second"} {
		if got, err := a.read(name, 10); err != nil || string(got) != want {
			t.Errorf("read(%q) = %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"fifo", "none", "", "d"} {
		if _, err := a.read(name, 10); err == nil {
			t.Errorf("read(%q) succeeded", name)
		}
	}
}

func FuzzArchive(f *testing.F) {
	img := demo("a:1", "x", "y")
	img.Layers = [][]byte{[]byte("small")}
	for _, files := range [][]testimage.File{testimage.DockerArchive(img), testimage.Layout(img), testimage.Saved(img)} {
		f.Add(testimage.Archive(files))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := openArchive(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		sources, err := a.images()
		if err != nil {
			return
		}
		for _, src := range sources {
			if _, err := chainIDs(src.config); err != nil {
				t.Errorf("an image whose configuration cannot be read: %v", err)
			}
			for _, l := range src.layers {
				_, _ = l.copyTo(context.Background(), io.Discard, nil, func(int64) {})
			}
		}
	})
}

// FuzzManifest reads the JSON alone, which a mutated tar seldom reaches.
func FuzzManifest(f *testing.F) {
	_, blobs := demo("a:1", "x").Manifest()
	for _, b := range blobs {
		f.Add(b.Data)
	}
	layout := testimage.Layout(demo("a:1", "x"))
	f.Add(layout[len(layout)-1].Data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := decodeManifest(data); err == nil && len(m.Layers) > MaxLayers {
			t.Error("too many layers")
		}
		if x, err := decodeIndexManifest(data); err == nil {
			_, _ = choose(x.Manifests)
			for _, d := range x.Manifests {
				_ = tagsOf(d)
			}
		}
		_, _ = runnable(data, 1)
	})
}
