package vmtest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// BusyboxName is the name of the image that Busybox makes.
const BusyboxName = "busybox:test"

// File is an entry of a layer.
type File struct {
	tar.Header
	Body string
}

// Busybox writes a docker-archive with one layer, this machine's own static busybox and the directories and files that
// an image has, and returns its path.
func Busybox(tb testing.TB) string {
	tb.Helper()
	return Archive(tb, BusyboxName, v1.Config{Cmd: []string{"sh"}, Env: []string{"PATH=/bin:/usr/bin"}}, BusyboxFiles(tb))
}

// BusyboxFiles is the one layer of that image.
func BusyboxFiles(tb testing.TB) []File {
	tb.Helper()
	NeedProgram(tb, "busybox", "busybox-static")
	path, err := exec.LookPath("busybox")
	if err != nil {
		tb.Fatal(err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	applets, err := exec.Command(path, "--list").Output()
	if err != nil {
		tb.Fatalf("cannot list busybox's commands: %v", err)
	}
	files := []File{
		dir("bin/", 0o755), dir("etc/", 0o755), dir("dev/", 0o755), dir("proc/", 0o755), dir("sys/", 0o755), dir("root/", 0o700), dir("tmp/", 0o1777),
		{tar.Header{Name: "etc/passwd", Mode: 0o644}, "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/tmp:/bin/sh\n"},
		{tar.Header{Name: "etc/group", Mode: 0o644}, "root:x:0:\nalice:x:1000:\nstaff:x:50:alice\n"},
		{tar.Header{Name: "etc/notexecutable", Mode: 0o644}, "text\n"},
		{tar.Header{Name: "bin/busybox", Mode: 0o755}, string(program)},
	}
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			files = append(files, File{Header: tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"}})
		}
	}
	return files
}

func dir(name string, mode int64) File {
	return File{Header: tar.Header{Name: name, Mode: mode, Typeflag: tar.TypeDir}}
}

// Archive writes a docker-archive with an image of one layer for each list of files and returns its path.
func Archive(tb testing.TB, tag string, config v1.Config, layers ...[]File) string {
	tb.Helper()
	image, err := buildImage(config, layers)
	if err != nil {
		tb.Fatalf("cannot make the image %s: %v", tag, err)
	}
	ref, err := name.NewTag(tag)
	if err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(tb.TempDir(), "image.tar")
	if err := tarball.WriteToFile(path, ref, image); err != nil {
		tb.Fatalf("cannot write the image %s: %v", tag, err)
	}
	return path
}

func buildImage(config v1.Config, layers [][]File) (v1.Image, error) {
	image, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "amd64", Config: config, RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		return nil, err
	}
	for _, files := range layers {
		blob, err := Tar(files)
		if err != nil {
			return nil, err
		}
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob)), nil })
		if err != nil {
			return nil, err
		}
		if image, err = mutate.AppendLayers(image, layer); err != nil {
			return nil, err
		}
	}
	return image, nil
}

// Tar makes a tar of files, in their order, hostile names and all.
func Tar(files []File) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := f.Header
		h.Size = int64(len(f.Body))
		if err := w.WriteHeader(&h); err != nil {
			return nil, fmt.Errorf("cannot write the entry %s: %w", h.Name, err)
		}
		if _, err := io.WriteString(w, f.Body); err != nil {
			return nil, fmt.Errorf("cannot write the entry %s: %w", h.Name, err)
		}
	}
	if err := w.Close(); err != nil { // writes the end of the archive
		return nil, fmt.Errorf("cannot end the archive: %w", err)
	}
	return b.Bytes(), nil
}
