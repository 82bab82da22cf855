// Package smalldisk makes file systems for tests that fill them.
package smalldisk

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Kinds are the file systems that Mount makes.
var Kinds = []string{"tmpfs", "ext4"}

// Mount returns a directory with a file system of a kind and a size in bytes (ext4: 8 MiB at least), which is there until the test ends. Without
// the right to mount the test is skipped.
func Mount(t testing.TB, kind string, size int64) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount: run the tests as root")
	}
	dir := t.TempDir()
	args := []string{"-t", "tmpfs", "-o", fmt.Sprintf("size=%d,mode=700", size), "tmpfs", dir}
	if kind == "ext4" {
		image := filepath.Join(t.TempDir(), "disk")
		if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size)); err != nil {
			t.Fatal(err)
		}
		run(t, "mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", image)
		args = []string{"-t", "ext4", "-o", "loop", image, dir}
	}
	run(t, "mount", args...)
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("cannot unmount %s: %v", dir, err)
		}
	})
	return dir
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// Fill writes to a file in dir until nothing more fits, and returns its path.
func Fill(t testing.TB, dir string) string {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "culprit"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<20); len(block) > 0; {
		_, err := f.Write(block)
		switch {
		case errors.Is(err, unix.ENOSPC):
			block = block[:len(block)/2]
		case err != nil:
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	return f.Name()
}
