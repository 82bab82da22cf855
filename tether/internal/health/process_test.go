package health

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/internal/process"
	"github.com/containervm/containervm/tether/internal/rootfs"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// container makes one whose root holds busybox and whose process sleeps, in a cgroup where this machine has one to give.
func container(t *testing.T) *process.Container {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	if os.Getuid() != 0 || err != nil {
		t.Skip("needs root and a static busybox; try: apt-get install busybox-static, sudo go test")
	}
	dir := t.TempDir()
	program, err := os.ReadFile(busybox)
	must(t, err)
	must(t, os.MkdirAll(filepath.Join(dir, "bin"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "bin/busybox"), program, 0o755))
	for _, name := range []string{"sh", "sleep", "yes", "printf", "setsid"} {
		must(t, os.Symlink("busybox", filepath.Join(dir, "bin", name)))
	}
	cgroup := testCgroup(t)
	reaper := process.NewReaper()
	go reaper.Run()
	root := rootfs.Root{Dir: dir, Staging: t.TempDir()}
	space, err := process.NewSpace(func() error { return errors.Join(unix.Mount(dir, dir, "", unix.MS_BIND, ""), root.Stage()) })
	must(t, err)
	must(t, space.Do(root.Enter))
	c, err := process.NewContainer(space, reaper, "box", cgroup)
	must(t, err)
	main, err := c.Start("main", shell("sleep 1000; true"), process.Options{})
	must(t, err)
	t.Cleanup(func() {
		_ = main.Signal(unix.SIGKILL)
		<-main.Done()
		c.Close()
	})
	return c
}

// testCgroup makes a cgroup of version 2 and returns its path as a container sees it.
func testCgroup(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/mounts")
	must(t, err)
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) < 3 || f[2] != "cgroup2" {
			continue
		}
		dir, err := os.MkdirTemp(f[1], "cvm-test-")
		if err != nil {
			break
		}
		t.Cleanup(func() {
			for range 100 { // the kernel lets go of what has ended
				_ = os.Remove(filepath.Join(dir, group))
				if os.Remove(dir) == nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Errorf("a process is left in %s", dir)
		})
		return "/sys/fs/cgroup/" + filepath.Base(dir)
	}
	t.Skip("needs a cgroup of version 2 of its own; try: mount -t cgroup2 none DIR")
	return ""
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func shell(script string) *tetherv1.Process {
	return &tetherv1.Process{Args: []string{"sh", "-c", script}}
}

// TestCheck: a check has its exit code and its output, whatever that is; one that hangs is ended with all that it has started.
func TestCheck(t *testing.T) {
	c := container(t)
	check := func(script string, timeout time.Duration) *tetherv1.HealthResult {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		return Of(c, shell(script), timeout)(ctx)
	}
	if r := check("echo fine; echo bad >&2; exit 3", time.Minute); r.ExitCode != 3 || !strings.Contains(r.Output, "fine\n") || !strings.Contains(r.Output, "bad\n") ||
		r.StartUnixNano == 0 || r.EndUnixNano < r.StartUnixNano {
		t.Errorf("%v", r)
	}
	if r := check(`printf '\377\376 x'`, time.Minute); r.ExitCode != 0 || !utf8.ValidString(r.Output) || !strings.HasSuffix(r.Output, " x") {
		t.Errorf("output that is no UTF-8: %v", r)
	}
	if r := check("sleep 1000 & echo begun", time.Minute); r.ExitCode != 0 || r.Output != "begun\n" {
		t.Errorf("a check that leaves a process: %v", r)
	}
	if r := check("setsid sleep 1000 & yes", 300*time.Millisecond); r.ExitCode != failed || len(r.Output) > maxOutput+100 ||
		!strings.HasPrefix(r.Output, "Health check exceeded timeout (300ms): y\n") {
		t.Errorf("a check without an end: %d, %d bytes: %.60q", r.ExitCode, len(r.Output), r.Output)
	}
	events, err := c.CgroupFile(group + "/cgroup.events")
	must(t, err)
	defer events.Close()
	for deadline := time.Now().Add(time.Minute); ; {
		b := make([]byte, 128)
		n, err := events.ReadAt(b, 0)
		if strings.Contains(string(b[:n]), "populated 0") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("processes of checks are left: %q, %v", b[:n], err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if r := Of(c, &tetherv1.Process{Args: []string{"/nosuch"}}, 0)(t.Context()); r.ExitCode != failed || !strings.Contains(r.Output, "nosuch") {
		t.Errorf("a check that cannot be started: %v", r)
	}
	must(t, c.Freeze(t.Context(), process.Paused))
	if r := Of(c, shell("true"), 0)(t.Context()); r != nil {
		t.Errorf("a check of a paused container: %v", r)
	}
	must(t, c.Thaw(process.Paused))
}
