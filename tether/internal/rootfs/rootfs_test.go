package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestListDisks(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"sda", "vdb", "loop0", "vda", "nvme0n1", "ram0"} {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	if got, err := listDisks(dir); err != nil || !slices.Equal(got, []string{"vda", "vdb", "sda", "nvme0n1"}) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := listDisks(filepath.Join(dir, "none")); err == nil {
		t.Error("no directory, no error")
	}
}

func TestWaitUeventEnds(t *testing.T) {
	fd, err := listenUevents()
	if err != nil {
		t.Skipf("cannot listen for devices here: %v", err)
	}
	defer unix.Close(fd)
	ctx, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	if err := waitUevent(ctx, fd); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) { // nil: there was one
		t.Error(err)
	}
}

// needRoot ends the test of a user who cannot mount.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for mounts; try: sudo go test")
	}
}

// loopDisk attaches a file of 64 MiB, formatted or not, to a loop device.
func loopDisk(t *testing.T, format bool) Disk {
	t.Helper()
	needRoot(t)
	file := filepath.Join(t.TempDir(), "disk")
	must(t, os.WriteFile(file, nil, 0o600))
	must(t, os.Truncate(file, 64<<20))
	if format {
		if out, err := exec.Command("/sbin/mke2fs", "-q", "-F", "-t", "ext4", file).CombinedOutput(); err != nil {
			t.Skipf("cannot make a file system: %v: %s", err, out)
		}
	}
	out, err := exec.Command("/sbin/losetup", "-f", "--show", file).Output()
	if err != nil {
		t.Skipf("cannot make a loop device: %v", err)
	}
	d := Disk{Path: strings.TrimSpace(string(out))}
	t.Cleanup(func() { _ = exec.Command("/sbin/losetup", "-d", d.Path).Run() })
	return d
}

func TestDisk(t *testing.T) {
	d := loopDisk(t, true)
	dir := filepath.Join(t.TempDir(), "made", "here")
	must(t, d.Reread())
	must(t, d.Mount(dir, unix.MS_NOATIME, ScratchOptions))
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o644))
	must(t, unix.Unmount(dir, 0))
	must(t, d.Flush())
	must(t, d.Mount(dir, 0, DurableOptions))
	text, err := os.ReadFile(filepath.Join(dir, "file"))
	if err != nil || string(text) != "text" {
		t.Errorf("%q, %v", text, err)
	}
	must(t, unix.Unmount(dir, 0))
}

func TestMountSaysWhatIsWrong(t *testing.T) {
	d := loopDisk(t, false)
	if err := d.Mount(t.TempDir(), 0, DurableOptions); err == nil || !strings.Contains(err.Error(), "it is empty or holds no ext4 file system") {
		t.Errorf("blank disk: %v", err)
	}
	none := Disk{Path: filepath.Join(t.TempDir(), "none")}
	if none.Mount(t.TempDir(), 0, "") == nil || none.Flush() == nil || none.Reread() == nil {
		t.Error("a missing disk is taken")
	}
}

// inRoot calls f in a mount namespace of its own after r, whose Dir is bound onto itself, was entered.
func inRoot(t *testing.T, r Root, f func(entered error)) {
	t.Helper()
	needRoot(t)
	r.Staging = t.TempDir()
	done := make(chan error)
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread is spoiled
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = unix.Mount(r.Dir, r.Dir, "", unix.MS_BIND, "")
		}
		if err != nil {
			done <- err
			return
		}
		var paths []string
		for _, f := range r.Files {
			paths = append(paths, f.Path)
		}
		if r.Covers != nil { // the test's own
			*r.Covers, err = newCoversIn(append(paths, bootID)...)
		} else {
			r.Covers, err = NewCovers(os.TempDir(), paths...)
		}
		if err != nil {
			done <- err
			return
		}
		defer r.Covers.Close()
		err = r.Stage()
		if err == nil {
			err = r.Enter()
		}
		f(err)
	}()
	must(t, <-done)
}

func TestEnter(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "victim")
	must(t, os.WriteFile(outside, []byte("untouched"), 0o644))
	must(t, os.Mkdir(filepath.Join(dir, "etc"), 0o755))
	must(t, os.Symlink(outside, filepath.Join(dir, "etc/resolv.conf")))
	must(t, unix.Mkfifo(filepath.Join(dir, "etc/hosts"), 0o644))
	must(t, os.MkdirAll(filepath.Join(dir, "etc/hostname/directory"), 0o755))
	must(t, os.Symlink(outside, filepath.Join(dir, "etc/hostname.cvm")))
	id := filepath.Join(dir, "etc/machine-id")
	must(t, os.WriteFile(id, []byte("the image's\n"), 0o444))
	files := []File{{"/etc/hostname", "box\n"}, {"/etc/hosts", "hosts\n"}, {"/etc/resolv.conf", "resolver\n"}}
	r := Root{Dir: dir, Files: append(slices.Clone(files), File{"/etc/machine-id", "1\n"}), Covers: &Covers{}, ReadOnly: true}
	inRoot(t, r, func(err error) {
		if err != nil {
			t.Error(err)
			return
		}
		see := func(what, want string) {
			if text, err := os.ReadFile("/etc/machine-id"); err != nil || string(text) != want {
				t.Errorf("%s: %q, %v", what, text, err)
			}
		}
		see("where a file was", "1\n")
		fillUp(t, "/dev")
		fillUp(t, "/dev/shm")
		for generation := range 2 {
			r.Files[len(files)].Text = fmt.Sprintf("fork %d\n", generation)
			if left, err := r.Renew(); err != nil || len(left) > 0 {
				t.Error(left, err)
			}
			see("in a fork", r.Files[len(files)].Text)
		}
		_ = os.Remove("/dev/shm/full")
		for _, path := range []string{"/dev/null", "/dev/pts/ptmx", "/dev/shm", "/dev/fd", "/sys/kernel", "/proc"} {
			if _, err := os.Lstat(path); err != nil {
				t.Error(err)
			}
		}
		if err := os.WriteFile("/file", nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("write to a read-only root: %v", err)
		}
		if err := os.WriteFile("/dev/shm/file", nil, 0o644); err != nil {
			t.Error(err)
		}
	})
	for _, f := range files {
		path := filepath.Join(dir, f.Path)
		text, err := os.ReadFile(path)
		if info, lerr := os.Lstat(path); err != nil || lerr != nil || string(text) != f.Text || !info.Mode().IsRegular() {
			t.Errorf("%s: %q, %v, %v", f.Path, text, err, lerr)
		}
	}
	if text, err := os.ReadFile(id); err != nil || string(text) != "the image's\n" {
		t.Errorf("the disk was written to: %q, %v", text, err)
	}
	if text, err := os.ReadFile(outside); err != nil || string(text) != "untouched" {
		t.Errorf("a file outside the root: %q, %v", text, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "etc/*.cvm")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// What stands in the place of directories is an error, or stays within the root; nothing hangs.
func TestEnterOddRoots(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(dir string) error
		fails bool
	}{
		"empty":         {func(string) error { return nil }, false},
		"etc leads out": {func(dir string) error { return os.Symlink("/../../../../tmp", filepath.Join(dir, "etc")) }, true},
		"etc leads to a relative": {func(dir string) error {
			return errors.Join(os.Mkdir(filepath.Join(dir, "real"), 0o755), os.Symlink("../../real", filepath.Join(dir, "etc")))
		}, false},
		"etc is a loop":         {func(dir string) error { return os.Symlink("etc", filepath.Join(dir, "etc")) }, true},
		"etc is a file":         {func(dir string) error { return os.WriteFile(filepath.Join(dir, "etc"), nil, 0o644) }, true},
		"dev is a pipe":         {func(dir string) error { return unix.Mkfifo(filepath.Join(dir, "dev"), 0o644) }, true},
		"sys is a loop":         {func(dir string) error { return os.Symlink("sys", filepath.Join(dir, "sys")) }, true},
		"proc leads to nothing": {func(dir string) error { return os.Symlink("nothing", filepath.Join(dir, "proc")) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			needRoot(t)
			dir := t.TempDir()
			must(t, test.spoil(dir))
			before, _ := filepath.Glob("/tmp/hostname*")
			inRoot(t, Root{Dir: dir, Files: []File{{"/etc/hostname", "box\n"}}}, func(err error) {
				if (err != nil) != test.fails {
					t.Errorf("entered: %v", err)
				}
			})
			if after, _ := filepath.Glob("/tmp/hostname*"); len(after) != len(before) {
				t.Errorf("written outside the root: %v", after)
			}
		})
	}
}

// A disk without room does not matter.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	needRoot(t)
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	for _, d := range []string{"etc", "dev", "sys", "proc"} {
		must(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(dir, "etc/hostname"), []byte("parent\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "etc/resolver"), nil, 0o644))
	must(t, os.Symlink("resolver", filepath.Join(dir, "etc/resolv.conf")))
	_ = os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 1<<20), 0o644) // fails half way, which is what it is for
	r := Root{Dir: dir, Files: []File{{"/etc/hostname", "child\n"}, {"/etc/resolv.conf", "child's\n"}}}
	inRoot(t, r, func(err error) {
		for _, f := range r.Files {
			text, readErr := os.ReadFile(f.Path)
			if err != nil || readErr != nil || string(text) != f.Text {
				t.Errorf("%v, %q, %v", err, text, readErr)
			}
		}
	})
}

// A root that cannot be moved leaves the thread where it is: a chroot to wherever that stands would be the image's way out.
func TestMoveRootStopsAtTheFirstFailure(t *testing.T) {
	needRoot(t)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is spoiled
		done <- func() error {
			var before, after unix.Stat_t
			if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
				return err
			}
			if err := unix.Stat("/", &before); err != nil {
				return err
			}
			if moveRoot("/nosuch") == nil {
				return errors.New("a directory that does not exist became the root")
			}
			if err := unix.Stat("/", &after); err != nil {
				return err
			}
			if after.Dev != before.Dev || after.Ino != before.Ino {
				return errors.New("the root has changed")
			}
			return nil
		}()
	}()
	must(t, <-done)
}
