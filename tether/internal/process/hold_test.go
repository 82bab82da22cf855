package process

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// testCgroup makes a cgroup of version 2, and returns its path as a container sees it.
func testCgroup(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for cgroups; try: sudo go test")
	}
	mounts, err := os.ReadFile("/proc/mounts")
	must(t, err)
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			dir, err := os.MkdirTemp(f[1], "cvm-test-")
			if err != nil {
				t.Skipf("needs a cgroup of its own: %v; try a machine whose cgroup2 can be written to", err)
			}
			t.Cleanup(func() {
				_ = os.Remove(filepath.Join(dir, "part")) // if the test made it
				for tries := 0; ; tries++ {
					err := os.Remove(dir)
					if err == nil {
						return
					}
					if tries > 100 {
						t.Errorf("a process is left: %v", err)
						return
					}
					time.Sleep(10 * time.Millisecond) // the kernel lets go of what has ended
				}
			})
			return "/sys/fs/cgroup/" + filepath.Base(dir)
		}
	}
	t.Skip("needs cgroup2; try: mount -t cgroup2 none DIR")
	return ""
}

// line starts a script that prints lines, and returns what reads one.
func line(t *testing.T, c *Container, id, script string, g *Group) (s *Session, next func() string) {
	t.Helper()
	s, err := c.Start(id, shell(script), Options{Group: g})
	must(t, err)
	r, err := s.Stdout.Reader(0, false)
	must(t, err)
	return s, func() string {
		b := make([]byte, 64)
		n, _ := r.Read(b)
		return string(b[:n])
	}
}

// TestPause: paused processes stand, those of an exec too, nothing can be started, and a fork's hold does not let them go on.
func TestPause(t *testing.T) {
	c := containerIn(t, testCgroup(t), false, nil)
	_, first := line(t, c, "main", "while :; do echo x; sleep 0.02; done", nil)
	_, second := line(t, c, "exec", "while :; do echo y; sleep 0.02; done", nil)
	first()
	second()
	must(t, c.Freeze(t.Context(), Paused))
	stands := func(why string) {
		t.Helper()
		events, err := c.CgroupFile("cgroup.events")
		must(t, err)
		defer events.Close()
		b := make([]byte, 256)
		n, _ := events.Read(b)
		if !strings.Contains(string(b[:n]), "frozen 1") {
			t.Errorf("%s: the processes run", why)
		}
	}
	stands("paused")
	if _, err := c.Start("late", shell("true"), Options{}); !errors.Is(err, ErrPaused) {
		t.Errorf("a start in a paused container: %v", err)
	}
	must(t, c.Freeze(t.Context(), Held))
	must(t, c.Thaw(Held))
	stands("after a fork")
	must(t, c.Freeze(t.Context(), Held))
	must(t, c.Thaw(Paused))
	stands("held, and not paused any more")
	if c.Stands(Paused) || !c.Stands(Held) {
		t.Error("the reasons are mixed up")
	}
	waits := make(chan error, 1)
	go func() {
		_, err := c.Start("waits", shell("true"), Options{})
		waits <- err
	}()
	select {
	case err := <-waits:
		t.Errorf("a start did not wait for the end of a hold: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	must(t, c.Thaw(Held))
	must(t, <-waits)
	first()
	second()
	must(t, c.Freeze(t.Context(), Held))
	go func() {
		_, err := c.Start("of the source", shell("true"), Options{})
		waits <- err
	}()
	time.Sleep(50 * time.Millisecond) // it may not have come to wait: then it is refused or done, which is as well
	c.Forked()
	must(t, c.Thaw(Held))
	if err := <-waits; err != nil && !errors.Is(err, ErrForked) {
		t.Errorf("a start of the source's: %v", err)
	}
}

// TestKillPaused: a signal that ends processes ends those that stand.
func TestKillPaused(t *testing.T) {
	c := containerIn(t, testCgroup(t), false, nil)
	s, next := line(t, c, "main", "echo ready; sleep 1000; true", nil)
	next()
	must(t, c.Freeze(t.Context(), Paused))
	must(t, s.Signal(unix.SIGKILL))
	<-s.Done()
	if exit, err := s.Wait(context.Background()); err != nil || exit.Signal != int32(unix.SIGKILL) {
		t.Errorf("%v, %v", exit, err)
	}
	must(t, c.Thaw(Paused))
}

// TestGroup: a part of the processes is ended with what it has started, whatever session that made itself; the others go on.
func TestGroup(t *testing.T) {
	c := containerIn(t, testCgroup(t), false, nil)
	_, main := line(t, c, "main", "while :; do echo x; sleep 0.02; done", nil)
	main()
	g, err := c.NewGroup("part")
	must(t, err)
	defer g.Close()
	s, part := line(t, c, "part", "setsid sh -c 'sleep 4321; true' & echo ready; sleep 1000; true", g)
	part()
	must(t, g.Kill())
	<-s.Done()
	for {
		list, err := c.List()
		must(t, err)
		sleeps := 0
		for _, p := range list {
			if strings.Contains(p.Command, "sleep 4321; true") {
				sleeps++
			}
		}
		if sleeps == 0 {
			break
		}
	}
	main()
}
