package demoimage_test

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/containervm/containervm/internal/demoimage"
)

func source() demoimage.Source {
	return demoimage.Source{
		Name: "busybox:test", Busybox: []byte("program"), Applets: []string{"bin/busybox", "bin/sh", "linuxrc", "usr/bin/id"},
		Created: time.Unix(1700000000, 0).UTC(),
	}
}

func image(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := demoimage.Write(&b, source()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestSameSourceSameBytes(t *testing.T) {
	if !bytes.Equal(image(t), image(t)) {
		t.Error("two images of one source differ")
	}
}

// A foreign reader must find a valid image with what was put in.
func TestLayoutIsValid(t *testing.T) {
	dir := t.TempDir()
	untar(t, dir, image(t))
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		t.Fatalf("index: %v, %v", manifest, err)
	}
	if name := manifest.Manifests[0].Annotations["org.opencontainers.image.ref.name"]; name != "busybox:test" {
		t.Errorf("name %q, want busybox:test", name)
	}
	img, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	checkRoot(t, r)
}

func checkRoot(t *testing.T, r io.Reader) {
	t.Helper()
	files := map[string]*tar.Header{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = h
	}
	for _, name := range []string{"bin/busybox", "bin/sh", "usr/bin/id", "etc/passwd", "etc/group", "tmp/"} {
		if files[name] == nil {
			t.Fatalf("%s is not in the root: %v", name, files)
		}
	}
	if got := files["bin/sh"].Linkname; got != "/bin/busybox" {
		t.Errorf("bin/sh -> %q, want /bin/busybox", got)
	}
	if got := files["tmp/"].Mode; got != 0o1777 {
		t.Errorf("mode of tmp %o, want 1777", got)
	}
	if files["linuxrc"] != nil {
		t.Error("linuxrc has no place in an image")
	}
}

func untar(t *testing.T, dir string, data []byte) {
	t.Helper()
	for tr := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, h.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
