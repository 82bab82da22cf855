package rootfs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestShmIsResized(t *testing.T) {
	inRoot(t, Root{Dir: t.TempDir(), ShmBytes: 1 << 20}, func(err error) {
		var is unix.Statfs_t
		if serr := unix.Statfs("/dev/shm", &is); err != nil || serr != nil || is.Blocks*uint64(is.Bsize) != 1<<20 || is.Flags&unix.ST_NOEXEC == 0 {
			t.Errorf("%v, %v, %+v", err, serr, is)
		}
		if info, err := os.Stat("/dev/shm"); err != nil || info.Mode() != os.ModeDir|os.ModeSticky|0o777 {
			t.Errorf("%v, %v", info, err)
		}
	})
}

func TestDevices(t *testing.T) {
	needRoot(t)
	devices, err := FindDevices()
	must(t, err)
	for path, has := range map[string]bool{"/dev/null": true, "/dev/console": false, "/dev/tty": false} {
		if _, ok := devices[path]; ok != has {
			t.Errorf("%s is in the list: %v", path, ok)
		}
	}
	devices = Devices{
		"/dev/null":       {}, // which is there
		"/dev/made/below": {mode: unix.S_IFCHR | 0o664, dev: unix.Mkdev(1, 5)},
	}
	inRoot(t, Root{Dir: t.TempDir()}, func(err error) {
		if err = errors.Join(err, devices.Make(), devices.Make()); err != nil {
			t.Error(err)
		}
		var is unix.Stat_t
		if err := unix.Stat("/dev/made/below", &is); err != nil || is.Mode != unix.S_IFCHR|0o664 || is.Rdev != unix.Mkdev(1, 5) {
			t.Errorf("%v %+v", err, is)
		}
	})
}

// A root with a link in the place of /dev gets no swap anywhere else, and what an earlier run left goes. The swap itself is in the tests
// with machines.
func TestSwapFile(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	left := filepath.Join(outside, filepath.Base(SwapFile))
	must(t, os.WriteFile(left, []byte("outside"), 0o600))
	must(t, os.Symlink(outside, filepath.Join(dir, "dev")))
	var s Swap
	if err := s.On(dir, MinSwap); err == nil || !strings.Contains(err.Error(), "escapes") {
		t.Errorf("through a link: %v", err)
	}
	must(t, s.Off())
	if text, err := os.ReadFile(left); err != nil || string(text) != "outside" {
		t.Errorf("a file outside the root: %q, %v", text, err)
	}
	must(t, os.Remove(filepath.Join(dir, "dev")))
	must(t, os.Mkdir(filepath.Join(dir, "dev"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, SwapFile), nil, 0o600))
	must(t, ClearSwap(dir))
	must(t, ClearSwap(dir))
	if _, err := os.Stat(filepath.Join(dir, SwapFile)); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	header := swapHeader(256)
	if len(header) != pageSize || string(header[pageSize-10:]) != "SWAPSPACE2" || header[1024] != 1 || header[1028] != 255 {
		t.Error("the header is no version 1 of a swap area of 256 pages")
	}
}
