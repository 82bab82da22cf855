package qemu

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// makeDisk makes a disk that begins with content.
func makeDisk(t *testing.T, path string, content []byte) {
	t.Helper()
	raw := path + ".raw"
	if err := os.WriteFile(raw, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(raw, hostapi.DiskBytes); err != nil {
		t.Fatal(err)
	}
	qemuImg(t, "convert", "-O", "qcow2", raw, path)
}

func qemuImg(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("qemu-img", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("qemu-img %v: %v: %s", args, err, out)
	}
	return string(out)
}

func TestCreateDisk(t *testing.T) {
	h, dir := &Hypervisor{}, t.TempDir()
	base := filepath.Join(dir, "layers", "base.vmdk")
	delta := filepath.Join(dir, "container", hostapi.RootDisk)
	for _, d := range []string{base, delta} {
		if err := os.Mkdir(filepath.Dir(d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	makeDisk(t, base, []byte("mark"))
	if err := h.CreateDisk(t.Context(), delta, base); err != nil {
		t.Fatal(err)
	}
	if out := qemuImg(t, "check", delta); !strings.Contains(out, "No errors were found") {
		t.Errorf("check: %s", out)
	}
	info := qemuImg(t, "info", delta)
	for _, want := range []string{"file format: qcow2", "virtual size: 64 GiB (68719476736 bytes)", "backing file: ../layers/base.vmdk ", "backing file format: qcow2", "refcount bits: 16"} {
		if !strings.Contains(info, want) {
			t.Errorf("info lacks %q: %s", want, info)
		}
	}
	qemuImg(t, "compare", delta, base)
	qemuIO(t, delta, "write -P 7 1G 1M")
	qemuIO(t, delta, "read -P 7 1G 1M")
	if out := qemuImg(t, "check", delta); !strings.Contains(out, "No errors were found") {
		t.Errorf("check after a write: %s", out)
	}
	got, err := h.DiskInfo(t.Context(), delta)
	if err != nil || got.VirtualBytes != hostapi.DiskBytes || got.Parent != base || got.ActualBytes < 1<<20 || got.ActualBytes > 4<<20 {
		t.Errorf("info %+v, %v", got, err)
	}
}

func qemuIO(t *testing.T, disk, command string) {
	t.Helper()
	out, err := exec.Command("qemu-io", "-c", command, disk).CombinedOutput()
	if err != nil || strings.Contains(string(out), "failed") {
		t.Fatalf("qemu-io %s: %v: %s", command, err, out)
	}
}

func TestCreateDiskRefuses(t *testing.T) {
	h, dir := &Hypervisor{}, t.TempDir()
	base, text := filepath.Join(dir, "base"), filepath.Join(dir, "text")
	makeDisk(t, base, nil)
	if err := os.WriteFile(text, []byte("not a disk, though it is long enough to hold a header of one: 72 bytes and more"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ path, parent string }{
		"no parent":         {"new", ""},
		"missing parent":    {"new", "none"},
		"parent no disk":    {"new", "text"},
		"path exists":       {"text", "base"},
		"missing directory": {"none/new", "base"},
	} {
		parent := c.parent
		if parent != "" {
			parent = filepath.Join(dir, parent)
		}
		if err := h.CreateDisk(t.Context(), filepath.Join(dir, c.path), parent); err == nil {
			t.Errorf("%s: created", name)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "new")); !os.IsNotExist(err) {
		t.Errorf("a refused disk was left: %v", err)
	}
}
