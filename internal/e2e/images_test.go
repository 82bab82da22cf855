package e2e

import (
	"archive/tar"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/containervm/containervm/internal/vmtest"
)

func file(name, body string, mode int64) vmtest.File {
	return vmtest.File{Header: tar.Header{Name: name, Mode: mode}, Body: body}
}

// entry is an entry without a body: a directory, a link or a device.
func entry(h tar.Header) vmtest.File { return vmtest.File{Header: h} }

// testLayers puts a second layer with everything that layers can say on top of busybox's and looks from inside.
func testLayers(t *testing.T, h *vmtest.Host) {
	long := strings.Repeat("n", 200)
	first := []vmtest.File{
		file("a", "first", 0o644), file("b", "linked", 0o644),
		entry(tar.Header{Name: "dir/", Mode: 0o750, Uid: 1000, Gid: 50, Typeflag: tar.TypeDir}), file("dir/x", "hidden", 0o644),
		entry(tar.Header{Name: "hard", Linkname: "b", Typeflag: tar.TypeLink}),
	}
	second := []vmtest.File{
		file(".wh.a", "", 0o644),
		entry(tar.Header{Name: "dir/", Mode: 0o750, Uid: 1000, Gid: 50, Typeflag: tar.TypeDir}), file("dir/.wh..wh..opq", "", 0o644), file("dir/z", "new", 0o644),
		file("setuid", "", 0o4755), file(long, "long", 0o644),
		entry(tar.Header{Name: "pipe", Mode: 0o600, Typeflag: tar.TypeFifo}),
		entry(tar.Header{Name: "null", Mode: 0o666, Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}),
	}
	h.MustDocker(t, "load", "-i", vmtest.Archive(t, "layers:test", v1.Config{Env: []string{"PATH=/bin"}}, vmtest.BusyboxFiles(t), first, second))
	script := `ls /a 2>/dev/null; ls -A /dir; stat -c '%a %u:%g' /dir; cat /hard; stat -c %h /b; stat -c %a /setuid; cat /` + long +
		`; test -p /pipe && echo fifo; stat -c '%F %t,%T' /null`
	equal(t, "what the container sees", h.MustDocker(t, "run", "--rm", "layers:test", "sh", "-c", script),
		"z\n750 1000:50\nlinked2\n4755\nlongfifo\ncharacter special file 1,3")
	h.MustDocker(t, "rmi", "layers:test")
	want(t, h.Docker(t, "run", "--rm", image, "true"), 0, "", "") // shares the first layer
}

// testPull pulls from a real registry, on loopback.
func testPull(t *testing.T, h *vmtest.Host) {
	server := httptest.NewServer(registry.New())
	t.Cleanup(server.Close)
	ref := strings.TrimPrefix(server.URL, "http://") + "/some/busybox:1"
	img, err := tarball.ImageFromPath(vmtest.Busybox(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, img); err != nil {
		t.Fatal(err)
	}
	h.MustDocker(t, "pull", ref)
	equal(t, "output", h.MustDocker(t, "run", "--rm", ref, "echo", "pulled"), "pulled")
	h.MustDocker(t, "rmi", ref)
	want(t, h.CVM(t, "pull", ref), 0, "", "")
	want(t, h.CVM(t, "rmi", ref), 0, ref, "")
	if r := h.Docker(t, "pull", strings.TrimSuffix(ref, "1")+"nosuchtag"); r.Code == 0 {
		t.Error("docker pull of a tag that does not exist succeeds")
	}
}

func testImport(t *testing.T, h *vmtest.Host) {
	blob, err := vmtest.Tar(vmtest.BusyboxFiles(t))
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir() + "/root.tar"
	if err := os.WriteFile(path, blob, 0o644); err != nil {
		t.Fatal(err)
	}
	want(t, h.CVM(t, "import", "-c", `CMD ["echo","imported"]`, "-c", "ENV PATH=/bin", path, "imported:test"), 0, "", "")
	equal(t, "output", h.MustDocker(t, "run", "--rm", "imported:test"), "imported")
	want(t, h.CVM(t, "tag", "imported:test", "imported:again"), 0, "", "")
	want(t, h.CVM(t, "rmi", "imported:test", "imported:again"), 0, "imported:test\nimported:again\n", "")
}

// testInterruptedLoad ends the client in the middle of an upload.
func testInterruptedLoad(t *testing.T, h *vmtest.Host) {
	before := h.MustDocker(t, "images", "-q")
	archive, err := os.ReadFile(vmtest.Archive(t, "half:test", v1.Config{}, []vmtest.File{file("big", strings.Repeat("x", 8<<20), 0o644)}))
	if err != nil {
		t.Fatal(err)
	}
	cmd := h.Command(t.Context(), h.CVMPath(), "load")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stdin.Write(archive[:len(archive)/2]); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("an interrupted cvm load succeeds")
	}
	vmtest.Eventually(t, time.Minute, "the list of images answers", func() bool { return h.MustDocker(t, "images", "-q") == before })
}
