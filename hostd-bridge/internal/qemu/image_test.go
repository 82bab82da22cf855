package qemu

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// imageFile writes an empty qcow2 image that names a parent, and lets spoil change its header.
func imageFile(t *testing.T, path, backing string, spoil func(head []byte)) {
	t.Helper()
	image, size, err := emptyImage(hostapi.DiskBytes, backing)
	if err != nil {
		t.Fatal(err)
	}
	if spoil != nil {
		spoil(image[0])
	}
	f, err := os.Create(path)
	if err == nil {
		err = image.writeTo(f, size)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

// whole makes an image one that is no delta.
func whole(head []byte) {
	binary.BigEndian.PutUint64(head[8:], 0)
	binary.BigEndian.PutUint32(head[16:], 0)
}

// store is a hypervisor with a datastore that holds base.vmdk, beside which lies a file that no machine may read.
func store(t *testing.T) (*Hypervisor, string) {
	t.Helper()
	ds := filepath.Join(t.TempDir(), "ds")
	if err := os.MkdirAll(filepath.Join(ds, "vm"), 0o700); err != nil {
		t.Fatal(err)
	}
	imageFile(t, filepath.Join(ds, "base.vmdk"), "x", whole)
	imageFile(t, filepath.Join(ds, "../secret"), "x", whole)
	return &Hypervisor{config: Config{Datastore: ds}}, ds
}

// TestImage: a disk's files are opened in their order, the first for writing and the others for reading alone.
func TestImage(t *testing.T) {
	h, ds := store(t)
	imageFile(t, ds+"/vm/middle.vmdk", "../base.vmdk", nil)
	imageFile(t, ds+"/vm/top.vmdk", "middle.vmdk", nil)
	for _, readOnly := range []bool{false, true} {
		image, err := h.image(ds+"/vm/top.vmdk", ds+"/vm/middle.vmdk", readOnly)
		if err != nil {
			t.Fatal(err)
		}
		for i, name := range []string{"vm/top.vmdk", "vm/middle.vmdk", "base.vmdk"} {
			f := image.Files[i]
			flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
			if err != nil {
				t.Fatal(err)
			}
			if want := i == 0 && !readOnly; f.Name() != filepath.Join(ds, name) || (flags&unix.O_ACCMODE == unix.O_RDWR) != want {
				t.Errorf("file %d is %s, flags %#x", i, f.Name(), flags)
			}
		}
		if image.Levels != 3 {
			t.Errorf("%d levels", image.Levels)
		}
		image.Close()
	}
}

// TestImagesThatReadTheHost: whatever a client uploads, or a machine does to its disk, no file is opened for it but those of disks in the datastore.
func TestImagesThatReadTheHost(t *testing.T) {
	outside := func(head []byte) { binary.BigEndian.PutUint64(head[72:], 4) } // incompatible feature: an external data file
	for name, c := range map[string]struct {
		backing string
		spoil   func([]byte)
		want    string
	}{
		"a file of the host":      {"/etc/shadow", nil, "not in the datastore"},
		"a way out":               {"../../secret", nil, "not in the datastore"},
		"a long way out":          {"../vm/../../secret", nil, "not in the datastore"},
		"json":                    {`json:{"driver":"qcow2","file":{"driver":"file","filename":"/etc/shadow"}}`, nil, "is no file"},
		"a protocol":              {"nbd:localhost:10809", nil, "is no file"},
		"a protocol with slashes": {"nbd://localhost/x", nil, "is no file"},
		"a set of descriptors":    {"/dev/fdset/1", nil, "not in the datastore"},
		"a link":                  {"link.vmdk", nil, "too many levels of symbolic links"},
		"a link to a directory":   {"linked/secret", nil, "too many levels of symbolic links"},
		"a pipe":                  {"pipe.vmdk", nil, "no regular file"},
		"a directory":             {"../vm", nil, "no regular file"},
		"what is no image":        {"raw.vmdk", nil, "not a qcow2 image"},
		"what is not there":       {"none.vmdk", nil, "no such file"},
		"itself":                  {"disk.vmdk", nil, "more than 1000 files"},
		"a data file":             {"../base.vmdk", outside, "features 0x4"},
		"encryption":              {"../base.vmdk", func(head []byte) { binary.BigEndian.PutUint32(head[32:], 2) }, "encrypted"},
		"raw":                     {"../base.vmdk", func(head []byte) { copy(head, "raw!") }, "not a qcow2 image"},
		"a parent that may be raw": {"../base.vmdk", func(head []byte) {
			copy(head[112:], "raw\x00\x00")
			binary.BigEndian.PutUint32(head[108:], 3)
		}, "format is not qcow2"},
	} {
		t.Run(name, func(t *testing.T) {
			h, ds := store(t)
			dir := ds + "/vm"
			if err := os.WriteFile(dir+"/raw.vmdk", []byte(strings.Repeat("raw", 200)), 0o600); err != nil {
				t.Fatal(err)
			}
			for to, from := range map[string]string{"../../secret": "link.vmdk", "../..": "linked"} {
				if err := os.Symlink(to, filepath.Join(dir, from)); err != nil {
					t.Fatal(err)
				}
			}
			if err := unix.Mkfifo(dir+"/pipe.vmdk", 0o600); err != nil {
				t.Fatal(err)
			}
			imageFile(t, dir+"/disk.vmdk", c.backing, c.spoil)
			image, err := h.image(dir+"/disk.vmdk", "", true)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
			image.Close()
		})
	}
	h, ds := store(t)
	for _, path := range []string{ds + "/../secret", "/etc/passwd", ds, ds + "/vm/../../secret"} {
		if image, err := h.image(path, "", true); err == nil {
			t.Errorf("%s was opened", path)
			image.Close()
		}
	}
}

// TestImageOfAnotherParent: a machine can write its own disk's header, or another disk in its place; what it is a delta of is the inventory's word.
func TestImageOfAnotherParent(t *testing.T) {
	h, ds := store(t)
	imageFile(t, ds+"/other.vmdk", "x", whole)
	imageFile(t, ds+"/vm/root.vmdk", "../other.vmdk", nil)
	if image, err := h.image(ds+"/vm/root.vmdk", ds+"/base.vmdk", false); err == nil || !strings.Contains(err.Error(), "is to be one of") {
		t.Errorf("%v", err)
		image.Close()
	}
	imageFile(t, ds+"/vm/root.vmdk", "x", whole)
	if image, err := h.image(ds+"/vm/root.vmdk", ds+"/base.vmdk", false); err == nil {
		t.Error("a disk that is no delta took its place")
		image.Close()
	}
}

// TestImageLeavesNoDescriptors: whatever is wrong with a disk, the files that were opened before it was found are closed.
func TestImageLeavesNoDescriptors(t *testing.T) {
	h, ds := store(t)
	imageFile(t, ds+"/vm/bad.vmdk", "/etc/shadow", nil)
	imageFile(t, ds+"/vm/top.vmdk", "bad.vmdk", nil)
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := open()
	for range 10 {
		if _, err := h.image(ds+"/vm/top.vmdk", "", false); err == nil {
			t.Fatal("it was opened")
		}
	}
	if now := open(); now > before {
		t.Errorf("%d descriptors are open, %d were", now, before)
	}
}
