package e2e

import (
	"bufio"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/containervm/containervm/internal/vmtest"
)

// politeScript says that it is ready, and ends with status 5 when it is asked to.
const politeScript = `trap 'echo asked; exit 5' TERM; echo ready; while :; do sleep 0.1; done`

func testLifecycle(t *testing.T, h *vmtest.Host) {
	id := h.MustDocker(t, "run", "-d", "--name", "r", image, "sh", "-c", politeScript)
	if !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(id) {
		t.Errorf("ID %q", id)
	}
	waitLog(t, h, "r", "ready")
	if ps := h.MustDocker(t, "ps"); !strings.Contains(ps, id[:12]) || !strings.Contains(ps, "Up ") || !strings.Contains(ps, image) {
		t.Errorf("docker ps: %s", ps)
	}
	h.MustDocker(t, "stop", "r")
	equal(t, "state after stop", inspect(t, h, id[:12], ".State.Status}} {{.State.ExitCode"), "exited 5")
	if ps := h.MustDocker(t, "ps", "-a"); !strings.Contains(ps, "Exited (5)") {
		t.Errorf("docker ps -a: %s", ps)
	}
	equal(t, "log", h.MustDocker(t, "logs", "r"), "ready\nasked")

	h.MustDocker(t, "start", "r")
	waitLogLines(t, h, "r", "ready", 2) // a first process ignores a signal that it does not trap yet
	h.MustDocker(t, "kill", "-s", "TERM", "r")
	equal(t, "docker wait", h.MustDocker(t, "wait", "r"), "5")
	equal(t, "log of both runs", h.MustDocker(t, "logs", "r"), "ready\nasked\nready\nasked")

	h.MustDocker(t, "start", "r")
	if r := h.Docker(t, "rm", "r"); r.Code == 0 {
		t.Error("docker rm removed a running container")
	}
	h.MustDocker(t, "rm", "-f", "r")
	want(t, h.Docker(t, "inspect", "r"), 1, "", "r")
}

func testKill(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "run", "-d", "--name", "kk", image, "sleep", "1000")
	h.MustDocker(t, "kill", "kk")
	equal(t, "docker wait", h.MustDocker(t, "wait", "kk"), "137")
}

// testStopKills stops a process that ignores SIGTERM.
func testStopKills(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "run", "-d", "--name", "deaf", image, "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done")
	waitLog(t, h, "deaf", "ready")
	h.MustDocker(t, "stop", "-t", "1", "deaf")
	equal(t, "exit status", inspect(t, h, "deaf", ".State.ExitCode"), "137")
}

func testLogsFollow(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "run", "-d", "--name", "log", image, "sh", "-c", "for i in 1 2 3 4; do echo $i; sleep 0.3; done")
	equal(t, "docker logs -f", h.MustDocker(t, "logs", "-f", "log"), "1\n2\n3\n4")
	equal(t, "docker logs --tail 2", h.MustDocker(t, "logs", "--tail", "2", "log"), "3\n4")
	if line := h.MustDocker(t, "logs", "--tail", "1", "-t", "log"); !regexp.MustCompile(`^\d{4}-\d\d-\d\dT[0-9:.]+Z 4$`).MatchString(line) {
		t.Errorf("docker logs -t: %q", line)
	}
}

func testDiskIsKept(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "run", "--name", "disk", image, "sh", "-c", "cat /kept 2>/dev/null; date >/dev/null; echo data >/kept")
	equal(t, "output of the second run", h.MustDocker(t, "start", "-a", "disk"), "data")
	equal(t, "a new container", h.MustDocker(t, "run", "--rm", image, "sh", "-c", "ls /kept 2>&1 || true"), "ls: /kept: No such file or directory")
}

func testExec(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "run", "-d", "--name", "ex", image, "sleep", "1000")
	equal(t, "exec", h.MustDocker(t, "exec", "-e", "A=b", "-u", "1000:1000", "-w", "/tmp", "ex", "sh", "-c", "echo $A $(id -u) $(pwd)"), "b 1000 /tmp")
	want(t, h.Docker(t, "exec", "ex", "sh", "-c", "echo out; echo err >&2; exit 3"), 3, "out\n", "err\n")
	if r := h.Docker(t, "exec", "ex", "nosuchcommand"); r.Code != 127 && r.Code != 126 {
		t.Errorf("exec of a missing command: exit %d, %s", r.Code, r.Stderr)
	}
	cmd := h.Command(t.Context(), "docker", "exec", "-i", "ex", "sh", "-c", "cat >/tmp/in; wc -c </tmp/in")
	cmd.Stdin = strings.NewReader(strings.Repeat("x", 1<<20))
	want(t, h.Finish(t, cmd), 0, "1048576", "")
	equal(t, "main process seen from exec", h.MustDocker(t, "exec", "ex", "cat", "/proc/1/comm"), "sleep")
	h.MustDocker(t, "exec", "-d", "ex", "sh", "-c", "echo later >/tmp/later")
	equal(t, "file of a detached exec", h.MustDocker(t, "exec", "ex", "sh", "-c", "until cat /tmp/later 2>/dev/null; do sleep 0.1; done"), "later")
}

// testAttach attaches a second client to a container that reads its input.
func testAttach(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "run", "-di", "--name", "att", image, "sh", "-c", "echo ready; read line; echo got $line; exit 4")
	waitLog(t, h, "att", "ready")
	cmd := h.Command(t.Context(), "docker", "attach", "att")
	cmd.Stdin = strings.NewReader("words\n")
	want(t, h.Finish(t, cmd), 4, "got words", "")
}

func testCreateStart(t *testing.T, h *vmtest.Host) {
	id := h.MustDocker(t, "create", "--name", "cr", image, "echo", "started")
	equal(t, "state", inspect(t, h, id, ".State.Status"), "created")
	equal(t, "docker start -a", h.MustDocker(t, "start", "-a", "cr"), "started")
}

// testSignals sends a signal to each client, which passes it on to the process and ends with its exit status.
func testSignals(t *testing.T, h *vmtest.Host) {
	for _, client := range []string{"docker", h.CVMPath()} {
		cmd := h.Command(t.Context(), client, "run", "--rm", image, "sh", "-c", politeScript)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for _, text := range []string{"ready", "asked"} {
			if !lines.Scan() || lines.Text() != text {
				t.Fatalf("%s prints %q, want %q", client, lines.Text(), text)
			}
			if text == "ready" {
				_ = cmd.Process.Signal(syscall.SIGTERM) // it would be noticed below
			}
		}
		_ = cmd.Wait() // its error is the status
		if code := cmd.ProcessState.ExitCode(); code != 5 {
			t.Errorf("%s: exit %d, want 5", client, code)
		}
	}
}
