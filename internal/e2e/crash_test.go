package e2e

import (
	"bufio"
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containervm/containervm/internal/vmtest"
)

// TestDaemonsKilled ends each daemon as by kill -9 under a running container, which must not notice.
func TestDaemonsKilled(t *testing.T) {
	h := loaded(t, vmtest.Options{Split: true})
	runAll(t, h, []hostTest{
		{"Controller", testDaemonKilled(vmtest.Controller)},
		{"Hostd", testDaemonKilled(vmtest.Hostd)},
		{"Both", testDaemonKilled(vmtest.Hostd, vmtest.Controller)},
		{"WhileFilesAreCopied", testCopyKilled},
	})
}

func testDaemonKilled(names ...string) func(*testing.T, *vmtest.Host) {
	return func(t *testing.T, h *vmtest.Host) {
		id := h.MustDocker(t, "run", "-d", "--name", "count", "-e", "A=b", image, "sh", "-c", `i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done`)
		waitLog(t, h, "count", "10")
		port := freePort(t)
		h.MustDocker(t, "run", "-d", "--name", "feed", "-p", "127.0.0.1:"+port+":9000", image,
			"sh", "-c", `i=0; while :; do echo $i; i=$((i+1)); usleep 2000; done | nc -l -p 9000`)
		numbers := listen(t, "127.0.0.1:"+port)
		t.Cleanup(func() { h.RemoveAll(t) })
		numbers.goOn(t)
		qemu, supervisor := h.MachineOf(t, id)
		followed, foreground := make(chan vmtest.Result, 1), make(chan vmtest.Result, 1)
		go func() {
			foreground <- h.Docker(t, "run", "--name", "front", image, "sh", "-c", "echo begun; exec sleep 1000")
		}()
		vmtest.Eventually(t, time.Minute, "a container runs in the foreground", func() bool { return h.Docker(t, "logs", "front").Stdout == "begun\n" })
		log := filepath.Join(t.TempDir(), "log")
		go func() { followed <- h.Exec(t, "sh", "-c", "exec docker logs -f count >"+log) }()
		vmtest.Eventually(t, time.Minute, "the log is followed", func() bool {
			read, err := os.ReadFile(log)
			return err == nil && len(read) > 0
		})
		for _, name := range names {
			h.Kill(name)
			numbers.goOn(t) // also while nobody is there
		}
		for _, name := range names {
			h.Restart(name)
		}
		vmtest.Eventually(t, time.Minute, "the API answers again", func() bool { return h.Docker(t, "ps").Code == 0 })

		numbers.goOn(t)
		equal(t, "state", inspect(t, h, "count", ".Id}} {{.State.Running}} {{index .Config.Env 0"), id+" true A=b")
		if q, s := h.MachineOf(t, id); q != qemu || s != supervisor {
			t.Errorf("processes %d and %d became %d and %d", qemu, supervisor, q, s)
		}
		waitLog(t, h, "count", nextNumber(t, h, "count"))
		checkNoGap(t, h, "count")
		equal(t, "exec", h.MustDocker(t, "exec", "count", "echo", "alive"), "alive")
		h.MustDocker(t, "kill", "count")
		equal(t, "docker wait", h.MustDocker(t, "wait", "count"), "137")
		equal(t, "what ran in the foreground", inspect(t, h, "front", ".State.Running}} {{.RestartCount"), "true 0")
		h.MustDocker(t, "kill", "front")
		broken := slices.Contains(names, vmtest.Controller) // a client hears of its end
		if r := <-foreground; (r.Code != 137) != broken || r.Code == 0 || broken && r.Stderr == "" {
			t.Errorf("docker run: exit %d, %s", r.Code, r.Stderr)
		}
		r := <-followed
		read, err := os.ReadFile(log)
		if whole := h.MustDocker(t, "logs", "count") + "\n"; broken != (r.Code != 0) || err != nil || !broken && string(read) != whole || !strings.HasPrefix(whole, string(read)) {
			t.Errorf("docker logs -f: exit %d, %s, %d bytes of %d, %v", r.Code, r.Stderr, len(read), len(whole), err)
		}
	}
}

// numbers are those that a container counts over one connection with a port that it publishes.
type numbers struct {
	lines *bufio.Scanner
	last  int
}

// listen connects with a container that is about to count.
func listen(t *testing.T, address string) *numbers {
	t.Helper()
	var n *numbers
	vmtest.Eventually(t, time.Minute, "the container counts", func() bool {
		conn, err := net.DialTimeout("tcp", address, 5*time.Second)
		if err != nil {
			return false
		}
		n = &numbers{lines: bufio.NewScanner(conn)}
		if !n.lines.Scan() { // it does not listen yet
			conn.Close()
			return false
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Minute)) // a connection that stands still has failed
		return true
	})
	return n
}

// goOn reads for a while, longer than anything that was sent before is on its way: each number is one more than the last.
func (n *numbers) goOn(t *testing.T) {
	t.Helper()
	for began := time.Now(); time.Since(began) < time.Second; n.last++ {
		if !n.lines.Scan() || n.lines.Text() != strconv.Itoa(n.last+1) {
			t.Fatalf("after %d the connection has %q, %v", n.last, n.lines.Text(), n.lines.Err())
		}
	}
}

// nextNumber is a number that a counting container has not printed yet.
func nextNumber(t *testing.T, h *vmtest.Host, name string) string {
	t.Helper()
	n, err := strconv.Atoi(h.MustDocker(t, "logs", "--tail", "1", name))
	if err != nil {
		t.Fatalf("the log ends with no number: %v", err)
	}
	return strconv.Itoa(n + 10)
}

// checkNoGap reads the log of a counting container: every number must be there, once, in order.
func checkNoGap(t *testing.T, h *vmtest.Host, name string) {
	t.Helper()
	for i, line := range strings.Split(h.MustDocker(t, "logs", name), "\n") {
		if line != strconv.Itoa(i) {
			t.Fatalf("line %d of the log is %q", i, line)
		}
	}
}

// TestDaemonsKilledWhileStarting kills hostd-bridge in the middle of starts: afterwards each container is there or not,
// as was answered, and can be removed.
func TestDaemonsKilledWhileStarting(t *testing.T) {
	h := loaded(t, vmtest.Options{Split: true})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	starting := h.Command(ctx, "docker", "run", "-d", "--name", "half", image, "sleep", "1000")
	if err := starting.Start(); err != nil {
		t.Fatal(err)
	}
	vmtest.Eventually(t, time.Minute, "a machine is being started", func() bool {
		for _, p := range h.Processes() {
			if p.Program == vmtest.Supervisor {
				return true
			}
		}
		return false
	})
	h.Kill(vmtest.Hostd)
	h.Restart(vmtest.Hostd)
	_ = starting.Wait() // it may have been told of an error
	vmtest.Eventually(t, time.Minute, "the API answers again", func() bool { return h.Docker(t, "ps").Code == 0 })
	if r := h.Docker(t, "inspect", "half"); r.Code != 0 {
		t.Errorf("a container that was created is gone: %s", r.Stderr)
	}
	h.CheckIdle(t)
	equal(t, "a new container", h.MustDocker(t, "run", "--rm", image, "echo", "works"), "works")
}
