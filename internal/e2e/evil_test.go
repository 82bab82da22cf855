package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containervm/containervm/internal/testimage"
	"github.com/containervm/containervm/internal/vmtest"
)

// TestEvilLayers loads each evil layer above an honest one while another container runs: it is refused in clear words, or
// does its writing within its own root; the other container notices nothing, and nothing is left behind.
func TestEvilLayers(t *testing.T) {
	h := loaded(t, vmtest.Options{})
	victim := h.MustDocker(t, "run", "-d", image, "sh", "-c", "echo mine >/file; echo ready; sleep 100000")
	waitLog(t, h, victim, "ready")
	started := inspect(t, h, victim, ".State.StartedAt")
	honest, err := vmtest.Tar(vmtest.BusyboxFiles(t))
	if err != nil {
		t.Fatal(err)
	}
	before := leftovers(t, h)
	refused := map[string]string{ // by the trick; a part of the words
		"parent path":         "leads out of the root",
		"parent inside path":  "leads out of the root",
		"absolute path":       "leads out of the root",
		"hard link out":       "leads out of the root",
		"hard link by a link": "no such file or directory",
		"whiteout of parent":  "leads out of the root",
		"not a tar":           "tar",
		"torn":                "unexpected EOF",
	}
	contained := map[string]string{ // what proves it, from inside
		"symlink then write":          "cat /escaped",
		"absolute symlink then write": "test ! -e /escaped && umount /proc && cat /proc/sys/kernel/core_pattern",
	}
	for name, layer := range testimage.Evil() {
		t.Run(name, func(t *testing.T) {
			i := testimage.Image{
				Tags: []string{"evil:test"}, Config: ocispec.ImageConfig{Env: []string{"PATH=/bin"}}, Layers: [][]byte{honest, layer},
			}
			cmd := h.Command(t.Context(), "docker", "load")
			cmd.Stdin = testimage.Reader(testimage.DockerArchive(i))
			r := h.Finish(t, cmd)
			if words, ok := refused[name]; ok {
				want(t, r, 1, "", words)
			} else {
				want(t, r, 0, "evil:test", "")
				want(t, h.Docker(t, "run", "--rm", "evil:test", "sh", "-c", contained[name]), 0, "x", "")
				h.MustDocker(t, "rmi", "evil:test")
			}
			var after string
			defer func() {
				if t.Failed() {
					t.Logf("before:\n%s\nafter:\n%s", before, after)
				}
			}()
			vmtest.Eventually(t, 20*time.Second, "nothing is left behind", func() bool { after = leftovers(t, h); return after == before })
			equal(t, "the other container's start", inspect(t, h, victim, ".State.StartedAt"), started)
			equal(t, "the other container's file", h.MustDocker(t, "exec", victim, "cat", "/file"), "mine")
			if _, err := os.Lstat("/escaped"); err == nil {
				t.Error("the layer has written to the host's own root")
			}
		})
	}
	h.CheckIdle(t)
}

// leftovers lists the machines, the images, and the files of the datastore but those of machines' homes.
func leftovers(t *testing.T, h *vmtest.Host) string {
	t.Helper()
	var b bytes.Buffer
	for _, p := range h.Processes() {
		if p.Program == vmtest.QEMU || p.Program == vmtest.Supervisor {
			b.WriteString(p.String() + "\n")
		}
	}
	b.WriteString(h.MustDocker(t, "images", "--no-trunc", "-q") + "\n")
	b.WriteString(strings.TrimSpace(govcList(t, h)) + "\n")
	root := filepath.Join(h.State, "hostd", "datastore", "cvm")
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			b.WriteString(path + "\n")
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) { // a file that is removed meanwhile
		t.Fatal(err)
	}
	return b.String()
}

// govcList lists the machines of the inventory, unpackers too.
func govcList(t *testing.T, h *vmtest.Host) string {
	t.Helper()
	r := govc(t, h, "ls", "vm")
	want(t, r, 0, "", "")
	return r.Stdout
}
