package qemu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// TestTetherFails boots machines with something amiss: each says what, and ends in order.
func TestTetherFails(t *testing.T) {
	blank := filepath.Join(t.TempDir(), "blank.vmdk")
	makeDisk(t, blank, nil)
	for _, test := range []struct {
		name   string
		disk   func(t *testing.T) string
		reason tetherv1.Failure_Reason
		text   string
	}{
		{"no disk", func(*testing.T) string { return "" }, tetherv1.Failure_ROOT_DISK, "it is empty or holds no ext4 file system"},
		{"disk without a file system", func(*testing.T) string { return blank }, tetherv1.Failure_ROOT_DISK, "it is empty or holds no ext4 file system"},
		{"file system without its root directory", func(t *testing.T) string { return damagedFileSystem(t, "clri <2>") },
			tetherv1.Failure_ROOT_DISK, "its file system is damaged"},
		{"empty root", func(t *testing.T) string { return makeFileSystem(t) }, tetherv1.Failure_NOT_FOUND, "/bin/sh"},
		{"etc is a loop", func(t *testing.T) string {
			return busyboxDisk(t, func(root string) { replaceByLink(t, "etc", filepath.Join(root, "etc")) })
		}, tetherv1.Failure_ROOT_DISK, "cannot write /etc/hostname of the container"},
		{"proc is a link to nothing", func(t *testing.T) string {
			return busyboxDisk(t, func(root string) { replaceByLink(t, "nothing", filepath.Join(root, "proc")) })
		}, tetherv1.Failure_ROOT_DISK, "cannot make /proc of the container"},
		{"passwd is a pipe", func(t *testing.T) string {
			return busyboxDisk(t, func(root string) { must(t, unix.Mkfifo(filepath.Join(root, "etc/passwd"), 0o644)) })
		}, tetherv1.Failure_INTERNAL, "/etc/passwd is not a regular file"},
		{"passwd of a GiB", func(t *testing.T) string {
			return busyboxDisk(t, func(root string) {
				file := filepath.Join(root, "etc/passwd")
				must(t, os.WriteFile(file, nil, 0o644))
				must(t, os.Truncate(file, 1<<30))
			})
		}, tetherv1.Failure_INTERNAL, "/etc/passwd has 1073741824 bytes, the limit is 1048576"},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := launchTether(t, tetherSpec("echo must not run"), test.disk(t))
			st, _ := g.ending()
			if f := st.Failure; st.State != tetherv1.State_FAILED || f.GetReason() != test.reason || !strings.Contains(f.GetMessage(), test.text) {
				t.Errorf("status %v; want the failure %v with %q", st, test.reason, test.text)
			}
			if !strings.Contains(g.console(), test.text) {
				t.Error("the console does not tell")
			}
		})
	}
}

// replaceByLink puts a symbolic link in the place of whatever is there.
func replaceByLink(t *testing.T, target, path string) {
	t.Helper()
	must(t, os.RemoveAll(path))
	must(t, os.Symlink(target, path))
}

func TestTetherWithoutSpec(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*vm.MachineSpec)
		text   string
	}{
		"none":      {func(*vm.MachineSpec) {}, "cannot read what to run: host refused: No value found"},
		"malformed": {func(s *vm.MachineSpec) { s.Guestinfo[link.KeySpec] = `{"mode":` }, "cannot decode spec"},
	} {
		t.Run(name, func(t *testing.T) {
			st, _ := launchTether(t, nil, "", test.change).ending()
			if st.State != tetherv1.State_FAILED || !strings.Contains(st.Failure.GetMessage(), test.text) {
				t.Errorf("status %v; want a failure with %q", st, test.text)
			}
		})
	}
}
