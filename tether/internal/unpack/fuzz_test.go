package unpack

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzLayer unpacks two layers of arbitrary bytes over each other. Nothing may appear or change outside the root.
func FuzzLayer(f *testing.F) {
	needRoot(f)
	f.Add(layerOf(f, dirEntry("a", 0o755), file("a/b", "x"), symlink("l", "/a"), hardLink("h", "a/b")), layerOf(f, file("l/.wh.b", ""), file("l/c", "y")))
	f.Add(layerOf(f, symlink("s", "../.."), file("s/x", "x")), layerOf(f, file(".wh.s", ""), dirEntry("s", 0o700), file("s/.wh..wh..opq", "")))
	f.Add(layerOf(f, file("../x", "x")), layerOf(f, file(".wh...", "")))
	f.Add(gnuSparse(f, "sparse", 1<<16, 1<<12, []byte("data")), layerOf(f, symlink("p", "/proc/self/root"), hardLink("h", "p/etc/passwd")))
	f.Fuzz(func(t *testing.T, lower, upper []byte) {
		outer := t.TempDir()
		root := filepath.Join(outer, "in", "root")
		if err := os.MkdirAll(root, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(outer, "outside"), []byte("untouched"), 0o600); err != nil {
			t.Fatal(err)
		}
		before := outside(t, outer)
		for _, layer := range [][]byte{lower, upper} {
			res, err := Layer(t.Context(), root, bytes.NewReader(layer), Limits{MaxBytes: 1 << 20, MaxEntries: 64})
			if res.Bytes > 1<<20 || res.Entries > 65 {
				t.Errorf("limits exceeded: %+v, %v", res, err)
			}
		}
		if after := outside(t, outer); after != before {
			t.Errorf("outside the root there was\n%s\nnow there is\n%s", before, after)
		}
	})
}

// outside lists what is beside the root.
func outside(t *testing.T, outer string) string {
	var kept []string
	for _, line := range strings.Split(list(t, outer), "\n") {
		if !strings.Contains(line, " in/root/") && !strings.HasSuffix(line, " in/root") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}

// FuzzFiles extracts a client's tar of arbitrary bytes into a directory of a container that has links to everywhere. Nothing may appear or change
// outside of it.
func FuzzFiles(f *testing.F) {
	needRoot(f)
	f.Add(layerOf(f, dirEntry("a", 0o755), file("a/b", "x"), symlink("l", "/a"), hardLink("h", "a/b"), file("l/c", "y"), file(".wh.a", "")))
	f.Add(layerOf(f, file("up/x", "x"), file("out/x", "x"), symlink("s", "../.."), file("s/y", "y"), hardLink("h", "up/outside")))
	f.Add(layerOf(f, file("../x", "x")))
	f.Fuzz(func(t *testing.T, tar []byte) {
		outer := t.TempDir()
		root := filepath.Join(outer, "in", "root")
		if err := os.MkdirAll(root, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, to := range map[string]string{"in/root/up": "../..", "in/root/out": outer} {
			if err := os.Symlink(to, filepath.Join(outer, name)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(outer, "outside"), []byte("untouched"), 0o600); err != nil {
			t.Fatal(err)
		}
		before := outside(t, outer)
		dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(dir)
		_, _ = Files(t.Context(), bytes.NewReader(tar), Into{Dir: dir, NoOverwriteDirNonDir: len(tar)%2 == 0}) // any bytes: mostly no tar
		if after := outside(t, outer); after != before {
			t.Errorf("outside the root there was\n%s\nnow there is\n%s", before, after)
		}
	})
}
