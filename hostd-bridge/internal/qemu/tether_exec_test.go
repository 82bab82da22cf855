package qemu

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// TestTetherExec runs all kinds of processes beside the main one of one machine.
func TestTetherExec(t *testing.T) {
	disk := busyboxDisk(t, func(root string) {
		must(t, os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/tmp:/bin/sh\n"), 0o644))
	})
	g := launchTether(t, tetherSpec("trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done"), disk)
	g.awaitStatus(tetherv1.State_RUNNING)
	c := g.client()
	g.awaitOutput(c, "ready\n")
	for _, test := range []struct {
		name string
		run  func(t *testing.T, g *guest, c *link.Client)
	}{
		{"user", testExecUser},
		{"many at once", testExecMany},
		{"orphans", testExecOrphans},
		{"half-closed input", testExecInput},
		{"terminal", testExecTerminal},
		{"signals", testExecSignals},
		{"detached", testExecDetached},
		{"refusals", testExecRefusals},
		{"at the end", testExecAtTheEnd}, // last: the machine ends
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, g, c) })
	}
	if st, _ := g.ending(); st.Exit.GetCode() != 9 {
		t.Errorf("status %v", st)
	}
}

func testExecUser(t *testing.T, _ *guest, c *link.Client) {
	p := shell("id -u; id -g; echo $HOME; pwd; touch /etc/mine 2>/dev/null || echo denied; echo to stdout >/dev/stdout")
	p.User, p.Cwd = "ann", "/tmp"
	if out, exit := execute(t, c, "user", p); out != "1000\n1000\n/tmp\n/tmp\ndenied\nto stdout\n" || exit.Code != 0 {
		t.Errorf("%q, %v", out, exit)
	}
	checkUnprivileged(t, c)
}

// checkUnprivileged has user 1000 bind port 80 and look who may open a ping socket, which busybox has no program for. Docker allows both
// since 20.10.
func checkUnprivileged(t testing.TB, c *link.Client) {
	t.Helper()
	p := shell("cat /proc/sys/net/ipv4/ping_group_range; timeout 1 nc -l -p 80 127.0.0.1; echo port $?")
	p.User = "1000"
	if out, exit := execute(t, c, "unprivileged", p); out != "0\t2147483647\nport 143\n" || exit.Code != 0 {
		t.Errorf("%q, %v", out, exit)
	}
}

func testExecMany(t *testing.T, _ *guest, c *link.Client) {
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			out, exit := execute(t, c, fmt.Sprint("many-", i), shell(fmt.Sprintf("echo %d; exit %d", i, i)))
			if out != fmt.Sprintln(i) || exit.GetCode() != int32(i) {
				t.Errorf("%d: %q, %v", i, out, exit)
			}
		})
	}
	all.Wait()
}

// testExecOrphans leaves processes to the container's PID 1, and sessions to the tether: neither keeps zombies.
func testExecOrphans(t *testing.T, _ *guest, c *link.Client) {
	if out, _ := execute(t, c, "orphans", shell("for i in $(seq 1000); do (true &); done; echo done")); out != "done\n" {
		t.Errorf("%q", out)
	}
	out, _ := execute(t, c, "zombies", shell("for i in $(seq 100); do grep -q '^State:.Z' /proc/[0-9]*/status 2>/dev/null || { echo none; exit; }; sleep 0.1; done"))
	if out != "none\n" {
		t.Errorf("zombies stay: %q", out)
	}
}

func testExecInput(t *testing.T, _ *guest, c *link.Client) {
	p := shell("wc -c; echo after the end")
	p.Stdin = true
	begin(t, c, "input", p)
	in, err := c.OpenInput(t.Context(), "input")
	must(t, err)
	defer in.Close()
	_, err = in.Write(make([]byte, 3_000_000))
	must(t, err)
	must(t, in.CloseWrite())
	if out, _ := finish(t, c, "input"); out != "3000000\nafter the end\n" {
		t.Errorf("%q", out)
	}
}

func testExecTerminal(t *testing.T, _ *guest, c *link.Client) {
	// read ends each second: a signal that comes just before it waits has its trap run only when it has ended.
	p := shell("trap 'stty size' WINCH; stty size; echo ready; until read -t 1 x; do :; done; echo read $x; exit 2")
	p.Tty, p.Stdin, p.Window = true, true, &tetherv1.Window{Rows: 20, Columns: 50}
	begin(t, c, "tty", p)
	out, err := c.OpenOutput(t.Context(), "tty", link.StreamStdout, 0)
	must(t, err)
	defer out.Close()
	expect(t, out, "20 50\r\nready\r\n")
	_, err = c.Tether().Resize(t.Context(), &tetherv1.ResizeRequest{Session: "tty", Window: &tetherv1.Window{Rows: 30, Columns: 60}})
	must(t, err)
	expect(t, out, "30 60\r\n")
	in, err := c.OpenInput(t.Context(), "tty")
	must(t, err)
	defer in.Close()
	_, err = in.Write([]byte("line\n"))
	must(t, err)
	expect(t, out, "line\r\nread line\r\n")
	if _, exit := finish(t, c, "tty"); exit.Code != 2 {
		t.Errorf("%v", exit)
	}
}

// testExecSignals stops, continues and ends a process, and then all.
func testExecSignals(t *testing.T, g *guest, c *link.Client) {
	begin(t, c, "sleeper", &tetherv1.Process{Args: []string{"/bin/sleep", "4321"}})
	send := func(signal int32, all bool) {
		t.Helper()
		_, err := c.Tether().Signal(t.Context(), &tetherv1.SignalRequest{Session: "sleeper", Signal: signal, All: all})
		must(t, err)
	}
	for _, step := range []struct {
		signal int32
		state  string
	}{{19, "T"}, {18, "S"}} {
		send(step.signal, false)
		awaitState(t, c, "/bin/sleep 4321", step.state)
	}
	send(9, false)
	if _, exit := finish(t, c, "sleeper"); exit.Code != 137 || exit.Signal != 9 || exit.OomKilled {
		t.Errorf("%v", exit)
	}
	for _, id := range []string{"all-1", "all-2"} {
		begin(t, c, id, shell("trap 'exit 8' USR2; echo ready; while :; do sleep 0.1; done"))
		out, err := c.OpenOutput(t.Context(), id, link.StreamStdout, 0)
		must(t, err)
		expect(t, out, "ready\n")
		must(t, out.Close())
	}
	_, err := c.Tether().Signal(t.Context(), &tetherv1.SignalRequest{Session: "all-1", Signal: 12, All: true})
	must(t, err)
	for _, id := range []string{"all-1", "all-2"} {
		if _, exit := finish(t, c, id); exit.Code != 8 {
			t.Errorf("%s: %v", id, exit)
		}
	}
}

// testExecDetached has a process outlive the session that started it.
func testExecDetached(t *testing.T, g *guest, c *link.Client) {
	other := g.client()
	p := shell("while [ ! -e /tmp/go ]; do sleep 0.05; done; echo went on")
	_, err := other.Tether().Exec(t.Context(), &tetherv1.ExecRequest{Session: "detached", Process: p})
	must(t, err)
	must(t, other.Close())
	execute(t, c, "go", shell("touch /tmp/go"))
	if out, exit := finish(t, c, "detached"); out != "went on\n" || exit.Code != 0 {
		t.Errorf("%q, %v", out, exit)
	}
}

func testExecRefusals(t *testing.T, _ *guest, c *link.Client) {
	tether := c.Tether()
	_, err := tether.Exec(t.Context(), &tetherv1.ExecRequest{Session: "../x", Process: shell("true")})
	wantCode(t, err, codes.InvalidArgument)
	_, err = tether.Exec(t.Context(), &tetherv1.ExecRequest{Session: "x"})
	wantCode(t, err, codes.InvalidArgument)
	_, err = tether.Exec(t.Context(), &tetherv1.ExecRequest{Session: link.MainSession, Process: shell("true")})
	wantCode(t, err, codes.AlreadyExists)
	_, err = tether.Signal(t.Context(), &tetherv1.SignalRequest{Session: link.MainSession, Signal: 65})
	wantCode(t, err, codes.InvalidArgument)
	_, err = tether.Resize(t.Context(), &tetherv1.ResizeRequest{Session: link.MainSession, Window: &tetherv1.Window{Rows: 1, Columns: 1}})
	wantCode(t, err, codes.FailedPrecondition)
	_, err = tether.Unpack(t.Context(), &tetherv1.UnpackRequest{Upload: "x"})
	wantCode(t, err, codes.FailedPrecondition)
	_, err = c.OpenInput(t.Context(), link.MainSession)
	wantCode(t, err, codes.FailedPrecondition)
}

// testExecAtTheEnd keeps starting processes, and asks other things, until the machine is gone.
func testExecAtTheEnd(t *testing.T, g *guest, c *link.Client) {
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			for i := 0; ; i++ {
				session := fmt.Sprintf("end-%d-%d", worker, i)
				res, err := c.Tether().Exec(t.Context(), &tetherv1.ExecRequest{Session: session, Process: shell("echo x")})
				if err == nil && res.Failure == nil {
					_, err = c.Tether().Processes(t.Context(), &tetherv1.ProcessesRequest{})
				}
				if errors.Is(err, link.ErrLost) {
					return
				}
				if err != nil && status.Code(err) != codes.FailedPrecondition && status.Code(err) != codes.Unavailable {
					t.Errorf("exec at the end: %v", err)
				}
				if res.GetFailure() != nil {
					t.Errorf("exec at the end: %v", res.Failure)
				}
				if i == 3 && worker == 0 {
					_, _ = c.Tether().Stop(t.Context(), &tetherv1.StopRequest{GraceSeconds: 60})
				}
			}
		})
	}
	all.Wait()
}

func wantCode(t *testing.T, err error, code codes.Code) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("error %v, want %v", err, code)
	}
}

// awaitState waits until the process of a command is in a state.
func awaitState(t *testing.T, c *link.Client, command, state string) {
	t.Helper()
	for t.Context().Err() == nil {
		list, err := c.Tether().Processes(t.Context(), &tetherv1.ProcessesRequest{})
		must(t, err)
		for _, p := range list.Processes {
			if p.Command == command && p.State == state {
				return
			}
		}
	}
}

// expect reads the text that has to come next.
func expect(t testing.TB, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got[:n], err, want)
	}
}
