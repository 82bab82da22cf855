package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containervm/containervm/initramfs"
	"github.com/containervm/containervm/internal/vmtest"
)

// TestNoTether starts a guest whose first process is not a tether and never says a word: the start ends, and says in
// which phase the guest hung and what its console shows.
func TestNoTether(t *testing.T) {
	guest := guestWithInit(t, "#!/bin/busybox sh\necho this is not a tether\nwhile :; do /bin/busybox sleep 1000; done\n")
	h := vmtest.Start(t, vmtest.Options{Guest: guest})
	r := h.Docker(t, "load", "-i", vmtest.Busybox(t))
	if text := r.Stdout + r.Stderr; r.Code == 0 || !strings.Contains(text, "this is not a tether") {
		t.Errorf("exit %d; the message does not show the console: %s", r.Code, text)
	}
	h.CheckIdle(t)
}

// guestWithInit copies the guest's artefacts, with an initramfs that holds busybox and the given script as /init.
func guestWithInit(t *testing.T, script string) string {
	t.Helper()
	vmtest.NeedProgram(t, "busybox", "busybox-static")
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"vmlinux", "bzImage", "blank.vmdk", "volume.vmdk"} {
		if err := os.Symlink(filepath.Join(vmtest.GuestDir(t), name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(filepath.Join(dir, "initramfs.cpio"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	entries := append(initramfs.Content([]byte(script)),
		initramfs.Entry{Name: "bin", Mode: initramfs.ModeDir | 0o755},
		initramfs.Entry{Name: "bin/busybox", Mode: initramfs.ModeRegular | 0o755, Data: busybox})
	if err := initramfs.Write(f, entries); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestQEMUDies starts machines with a QEMU that ends at once: the error is QEMU's own message, and nothing is left.
func TestQEMUDies(t *testing.T) {
	dir := t.TempDir()
	die := filepath.Join(dir, "die")
	script := "#!/bin/sh\nif [ -e " + die + " ]; then echo 'qemu: the test says no' >&2; exit 1; fi\nexec /usr/bin/qemu-system-x86_64 \"$@\"\n"
	if err := os.WriteFile(filepath.Join(dir, vmtest.QEMU), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	h := loaded(t, vmtest.Options{Path: dir})
	if err := os.WriteFile(die, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	want(t, h.Docker(t, "run", "--name", "qq", image, "true"), 125, "", "the test says no")
	equal(t, "State.Running", inspect(t, h, "qq", ".State.Running"), "false")
	if err := os.Remove(die); err != nil {
		t.Fatal(err)
	}
	equal(t, "the same container, later", h.MustDocker(t, "start", "-a", "qq"), "")
	h.CheckIdle(t)
}
