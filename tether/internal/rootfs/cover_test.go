package rootfs

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// bootID is a file of the kernel's that a fork covers.
const bootID = "/proc/sys/kernel/random/boot_id"

// newCoversIn makes covers in a small file system of their own.
func newCoversIn(paths ...string) (Covers, error) {
	dir, err := os.MkdirTemp("", "covers")
	if err == nil {
		err = unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k")
	}
	if err != nil {
		return Covers{}, err
	}
	c, err := NewCovers(dir, paths...)
	if err != nil {
		return Covers{}, err
	}
	return *c, nil
}

// fillUp leaves no room in a directory's file system.
func fillUp(t *testing.T, dir string) {
	f, err := os.Create(dir + "/full")
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	for size := 1 << 20; size >= 4096; {
		if _, err = f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%s is not full: %v", dir, err)
	}
}

// TestCoversOfAHostileContainer: whatever a container makes of its own file systems, a machine that becomes another one writes nowhere
// but in its own memory, and goes on; what the container has put in the place of the tether's files is left and named.
func TestCoversOfAHostileContainer(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func() error
		left  []string // files that are the container's then
	}{
		"nothing":      {func() error { return nil }, nil},
		"unmounted":    {func() error { return unix.Unmount("/etc/hosts", unix.MNT_DETACH) }, []string{"/etc/hosts"}},
		"removed":      {func() error { return errors.Join(unix.Unmount("/etc/hosts", unix.MNT_DETACH), os.Remove("/etc/hosts")) }, []string{"/etc/hosts"}},
		"a link":       {func() error { return swapped(func() error { return os.Symlink("/victim", "/etc/hosts") }) }, []string{"/etc/hosts"}},
		"a loop":       {func() error { return swapped(func() error { return os.Symlink("hosts", "/etc/hosts") }) }, []string{"/etc/hosts"}},
		"a magic link": {func() error { return swapped(func() error { return os.Symlink("/proc/self/exe", "/etc/hosts") }) }, []string{"/etc/hosts"}},
		"a pipe":       {func() error { return swapped(func() error { return unix.Mkfifo("/etc/hosts", 0o644) }) }, []string{"/etc/hosts"}},
		"a directory":  {func() error { return swapped(func() error { return os.Mkdir("/etc/hosts", 0o755) }) }, []string{"/etc/hosts"}},
		"another file": {func() error { return unix.Mount("/victim", "/etc/hosts", "", unix.MS_BIND, "") }, []string{"/etc/hosts"}},
		"no etc":       {func() error { return unix.Mount("tmpfs", "/etc", "tmpfs", unix.MS_RDONLY, "") }, []string{"/etc/hosts", "/etc/hostname"}},
		"covers that are full": {func() error {
			return errors.Join(os.Truncate("/etc/hosts", 0), os.WriteFile("/etc/hostname", make([]byte, 60<<10), 0))
		}, nil},
		"a planted boot ID": {func() error { return os.Symlink("/victim", "/dev/shm/boot_id") }, nil},
		"no proc":           {func() error { return unix.Unmount("/proc", unix.MNT_DETACH) }, []string{bootID}},
		"a proc of its own": {func() error {
			return errors.Join(unix.Mount("tmpfs", "/proc", "tmpfs", 0, ""), os.MkdirAll(filepath.Dir(bootID), 0o755), os.WriteFile(bootID, []byte("own"), 0o644))
		}, []string{bootID}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, d := range []string{"etc", "proc"} {
				must(t, os.Mkdir(filepath.Join(dir, d), 0o755))
			}
			for _, f := range []string{"victim", "etc/hosts", "etc/hostname"} {
				must(t, os.WriteFile(filepath.Join(dir, f), []byte("untouched"), 0o644))
			}
			r := Root{Dir: dir, Files: []File{{"/etc/hosts", "source\n"}, {"/etc/hostname", "source\n"}}, Covers: &Covers{}}
			inRoot(t, r, func(err error) {
				err = errors.Join(err, unix.Mount("proc", "/proc", "proc", 0, ""), test.spoil())
				if err != nil {
					t.Error(err)
					return
				}
				for _, text := range []string{"fork\n", "a longer fork of the fork\n", "f\n"} {
					checkRenewed(t, r, text, test.left)
				}
			})
			for _, f := range []string{"victim", "etc/hostname"} {
				if text, err := os.ReadFile(filepath.Join(dir, f)); err != nil || string(text) != "untouched" {
					t.Errorf("%s on the disk: %.40q, %v", f, text, err)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "etc/*.cvm")); len(left) > 0 {
				t.Errorf("left on the disk: %v", left)
			}
		})
	}
}

// swapped has make put something else in the place of /etc/hosts.
func swapped(make func() error) error {
	return errors.Join(unix.Unmount("/etc/hosts", unix.MNT_DETACH), os.Remove("/etc/hosts"), make())
}

// checkRenewed renews all covers, of which those of left cannot be.
func checkRenewed(t *testing.T, r Root, text string, left []string) {
	t.Helper()
	var got []string
	if err := r.Covers.PutProc(bootID, text); errors.Is(err, ErrLeft) {
		got = append(got, bootID)
	} else if err != nil {
		t.Error(err)
	}
	for i := range r.Files {
		r.Files[i].Text = text
	}
	renewed, err := r.Renew()
	if got = append(got, renewed...); err != nil || !slices.Equal(got, left) {
		t.Errorf("left %v, %v; want %v", got, err, left)
	}
	for _, path := range []string{bootID, "/etc/hosts", "/etc/hostname"} {
		var seen []byte
		is, err := os.Lstat(path)
		if err == nil && is.Mode()&os.ModeNamedPipe == 0 { // a pipe that is opened waits
			seen, err = os.ReadFile(path)
		}
		if is := err == nil && string(seen) == text; is == slices.Contains(left, path) {
			t.Errorf("%s: %.40q, %v; left: %v", path, seen, err, left)
		}
	}
}
