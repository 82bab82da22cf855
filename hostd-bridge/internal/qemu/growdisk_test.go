package qemu

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

func checked(t *testing.T, path string) {
	t.Helper()
	if out := qemuImg(t, "check", path); !strings.Contains(out, "No errors were found") {
		t.Errorf("check of %s: %s", path, out)
	}
}

// A disk that was made larger is one to QEMU's tools: what was in it is there, the rest is zero, and both can be written.
func TestGrowDisk(t *testing.T) {
	h, dir := &Hypervisor{}, t.TempDir()
	small, whole := filepath.Join(dir, "small"), filepath.Join(dir, "whole")
	qemuImg(t, "create", "-f", "qcow2", small, "64M")
	qemuIO(t, small, "write -P 5 0 1M")
	makeDisk(t, whole, []byte("mark"))
	delta := filepath.Join(dir, "delta")
	if err := h.CreateDisk(t.Context(), delta, whole); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{small, delta, whole} {
		for _, size := range []int64{hostapi.DiskBytes + 512, 1 << 40, hostapi.MaxDiskBytes} {
			if err := h.GrowDisk(t.Context(), path, size); err != nil {
				t.Fatal(err)
			}
			if info, err := h.DiskInfo(t.Context(), path); err != nil || info.VirtualBytes != size {
				t.Errorf("%s: %+v, %v", path, info, err)
			}
			checked(t, path)
		}
		qemuIO(t, path, "read -P 0 70G 1M")
		qemuIO(t, path, "write -P 7 2T 1M")
		qemuIO(t, path, "write -P 8 4398046445568 64k") // its last 64 KiB
		qemuIO(t, path, "read -P 7 2T 1M")
		checked(t, path)
		if err := h.GrowDisk(t.Context(), path, hostapi.MaxDiskBytes+512); err == nil || !strings.Contains(err.Error(), "at most") {
			t.Errorf("beyond the L1 table: %v", err)
		}
		if err := h.GrowDisk(t.Context(), path, 1<<30); err == nil {
			t.Error("it was made smaller")
		}
	}
	qemuIO(t, small, "read -P 5 0 1M")
	qemuIO(t, whole, "read -P 109 0 1") // m
}

// Images that would not be what they were, or would lead to other files, are refused.
func TestDisksThatAreRefused(t *testing.T) {
	h, dir := &Hypervisor{}, t.TempDir()
	base := filepath.Join(dir, "base")
	makeDisk(t, base, nil)
	image := func(name string, args ...string) string {
		path := filepath.Join(dir, name)
		qemuImg(t, append(append([]string{"create", "-f", "qcow2"}, args...), path, "64M")...)
		return path
	}
	edited := func(name string, at int, value uint32) string {
		path := image(name)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		binary.BigEndian.PutUint32(data[at:], value)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for what, tc := range map[string]struct{ path, words string }{
		"separate data":  {image("external", "-o", "data_file="+filepath.Join(dir, "external.raw")), "features 0x4"},
		"raw parent":     {image("raw", "-b", base, "-F", "raw"), "format is not qcow2"},
		"protocol":       {image("protocol", "-u", "-b", "nbd://127.0.0.1/x", "-F", "qcow2"), "is no file"},
		"json":           {image("json", "-u", "-b", `json:{"driver":"file","filename":"/etc/passwd"}`, "-F", "qcow2"), "is no file"},
		"no format":      {image("guess", "-u", "-o", "compat=0.10", "-b", base, "-F", "raw"), "format is not qcow2"},
		"marked corrupt": {edited("corrupt", 76, 2), "corrupt"},
		"encrypted":      {edited("encrypted", 32, 1), "encrypted"},
		"text":           {filepath.Join(dir, "text"), "not a qcow2 image"},
	} {
		if what == "text" {
			if err := os.WriteFile(tc.path, make([]byte, 200), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := h.DiskInfo(t.Context(), tc.path); err == nil || !strings.Contains(err.Error(), tc.words) {
			t.Errorf("%s: %v, want %q", what, err, tc.words)
		}
		if err := h.GrowDisk(t.Context(), tc.path, 1<<40); err == nil {
			t.Errorf("%s was made larger", what)
		}
	}
	// fit for use, but not to be made larger here
	snapshot := image("snapshot")
	qemuImg(t, "snapshot", "-c", "one", snapshot)
	larger := filepath.Join(dir, "larger")
	qemuImg(t, "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", larger, "1G")
	for what, path := range map[string]string{"snapshot": snapshot, "smaller than its parent": larger} {
		if _, err := h.DiskInfo(t.Context(), path); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if err := h.GrowDisk(t.Context(), path, 1<<40); err == nil {
			t.Errorf("%s: made larger", what)
		}
	}
	behind := filepath.Join(dir, "behind")
	qemuImg(t, "create", "-q", "-f", "qcow2", behind, "1G")
	qemuIO(t, behind, "write -P 1 600M 64k")
	f, err := os.OpenFile(behind, os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt([]byte{0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 24) // 512 MiB, whose table has one entry
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := h.GrowDisk(t.Context(), behind, 1<<40); err == nil || !strings.Contains(err.Error(), "behind its L1 table") {
		t.Errorf("something behind the L1 table: %v", err)
	}
}

// Whatever a header says, it is not taken for more than the file that it is of, and nothing is read without bounds.
func FuzzGrowDisk(f *testing.F) {
	image, _, err := emptyImage(hostapi.DiskBytes, "../base")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(image[0]), int64(1)<<40)
	whole := append([]byte{}, image[0][:qcowHeaderLen]...)
	clear(whole[8:20])
	f.Add(string(whole), int64(1)<<40)
	f.Fuzz(func(t *testing.T, image string, size int64) {
		h, err := parseHeader(strings.NewReader(image))
		if err != nil {
			return
		}
		const file = 1 << 20
		entries, end, err := h.grown(strings.NewReader(image), file, size)
		if err == nil && (size <= h.virtual || entries < h.l1Entries || end > file+maxL1Bytes || end < int64(entries)*8) {
			t.Errorf("%+v is to have %d bytes by %d entries, and end at %d", h, size, entries, end)
		}
	})
}
