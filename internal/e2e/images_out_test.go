package e2e

import (
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/containervm/containervm/internal/vmtest"
)

// testImagesOut has a container's changes become an image, and sends that out and in again: as an archive, and by a registry.
func testImagesOut(t *testing.T, h *vmtest.Host) {
	server := httptest.NewServer(registry.New())
	t.Cleanup(server.Close)
	ref := strings.TrimPrefix(server.URL, "http://") + "/some/made:1"
	h.MustDocker(t, "run", "-d", "--name", "source", image, "sh", "-c",
		`mkdir -p /made/dir; echo kept >/made/dir/file; chmod 2750 /made/dir; ln /made/dir/file /made/hard; ln -s dir/file /made/soft; rm -r /home; while :; do date >/t; done`)
	vmtest.Eventually(t, time.Minute, "the container writes", func() bool { return h.Docker(t, "exec", "source", "test", "-s", "/t").Code == 0 })
	id := h.MustDocker(t, "commit", "-m", "by hand", "-c", `CMD ["sh","-c","cat /made/soft; stat -c %a,%h /made/dir /made/hard; ls -d /home"]`, "source", ref)
	equal(t, "state of a committed container", h.MustDocker(t, "inspect", "-f", "{{.State.Status}} {{.State.Paused}}", "source"), "running false")
	const sees = "kept\n2750,2\n644,2"
	check := func(how string) {
		t.Helper()
		r := h.Docker(t, "run", "--rm", ref)
		equal(t, how, strings.TrimSpace(r.Stdout), sees)
		equal(t, how, h.MustDocker(t, "image", "inspect", "-f", "{{.Id}}", ref), id)
	}
	check("committed")
	h.MustDocker(t, "rm", "-f", "source")

	archive := t.TempDir() + "/made.tar"
	h.MustDocker(t, "save", "-o", archive, ref)
	h.MustDocker(t, "push", ref)
	digests := h.MustDocker(t, "image", "inspect", "-f", "{{.RepoDigests}}", ref)
	h.MustDocker(t, "rmi", ref)
	h.MustDocker(t, "load", "-i", archive)
	check("saved and loaded")
	h.MustDocker(t, "rmi", ref)
	h.MustDocker(t, "pull", ref)
	check("pushed and pulled")
	equal(t, "digests", h.MustDocker(t, "image", "inspect", "-f", "{{.RepoDigests}}", ref), digests)
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	if img, err := remote.Image(tag); err != nil {
		t.Error(err)
	} else if config, err := img.ConfigName(); err != nil || config.String() != id {
		t.Errorf("the registry has the image %s, not %s (%v)", config, id, err)
	}
	h.MustDocker(t, "rmi", ref)
	context := t.TempDir()
	if err := os.WriteFile(context+"/Dockerfile", []byte("FROM scratch\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	want(t, h.Docker(t, "build", context), 1, "", "docker build is not supported")
}
