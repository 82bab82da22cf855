package process

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/internal/rootfs"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// testContainer makes a container whose root holds busybox and the files given (path: text, mode 0755).
func testContainer(t *testing.T, readOnly bool, files map[string]string) *Container {
	t.Helper()
	return containerIn(t, "", readOnly, files)
}

// containerIn is testContainer with its processes in a cgroup, a directory in the container's root.
func containerIn(t *testing.T, cgroup string, readOnly bool, files map[string]string) *Container {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for namespaces; try: sudo go test")
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs a static busybox; try: apt-get install busybox-static")
	}
	dir := t.TempDir()
	for _, d := range []string{"bin", "etc", "tmp"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	program, err := os.ReadFile(busybox)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "bin/busybox"), program, 0o755))
	for _, name := range []string{"sh", "cat", "echo", "id", "true", "tty", "sleep", "kill", "head", "stty", "ps", "grep", "setsid"} {
		must(t, os.Symlink("busybox", filepath.Join(dir, "bin", name)))
	}
	for path, text := range files {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, path), []byte(text), 0o755))
	}
	r := NewReaper()
	go r.Run()
	root := rootfs.Root{
		Dir: dir, Staging: t.TempDir(), ReadOnly: readOnly, Files: []rootfs.File{{Path: "/etc/hostname", Text: "box\n"}},
	}
	space, err := NewSpace(func() error {
		return errors.Join(unix.Mount(dir, dir, "", unix.MS_BIND, ""), root.Stage())
	})
	must(t, err)
	must(t, space.Do(root.Enter))
	c, err := NewContainer(space, r, "box", cgroup)
	must(t, err)
	t.Cleanup(func() {
		if s, ok := c.Session("main"); ok {
			_ = s.Signal(unix.SIGKILL)
			<-s.Done()
		}
		c.Close()
	})
	return c
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

// run starts p and returns its output and how it ended.
func run(t *testing.T, c *Container, id string, p *tetherv1.Process) (stdout, stderr string, exit *tetherv1.Exit) {
	t.Helper()
	s, err := c.Start(id, p, Options{})
	must(t, err)
	exit, err = s.Wait(context.Background())
	must(t, err)
	return all(t, s.Stdout), all(t, s.Stderr), exit
}

func all(t *testing.T, r *Ring) string {
	t.Helper()
	reader, err := r.Reader(0, false)
	must(t, err)
	text, err := io.ReadAll(reader)
	must(t, err)
	return string(text)
}

func TestMainIsPID1InItsOwnRoot(t *testing.T) {
	c := testContainer(t, false, nil)
	out, errs, exit := run(t, c, "main", shell(`echo $$; cat /etc/hostname; echo oops >&2; cat /proc/1/comm; exec 3>&-; exit 7`))
	if exit.Code != 7 || exit.Signal != 0 || exit.OomKilled {
		t.Errorf("exit %v", exit)
	}
	if !strings.HasPrefix(out, "1\nbox\nsh\n") || errs != "oops\n" {
		t.Errorf("stdout %q, stderr %q", out, errs)
	}
}

func TestExecJoinsTheContainer(t *testing.T) {
	c := testContainer(t, false, nil)
	main := shell("echo up; cat")
	main.Stdin = true
	s, err := c.Start("main", main, Options{})
	must(t, err)
	out, _, exit := run(t, c, "x", shell(`n=0; until [ "$(cat /proc/1/cmdline)" = cat ] || [ $n = 2000 ]; do n=$((n+1)); done; `+ // the shell becomes cat
		"cat /proc/1/cmdline; echo; [ $$ -gt 1 ] && echo other; [ /proc/self/ns/pid -ef /proc/1/ns/pid ] && echo same"))
	if exit.Code != 0 || !strings.HasPrefix(out, "cat\x00\n") || !strings.Contains(out, "other\nsame\n") {
		t.Errorf("%v %q", exit, out)
	}
	in, err := s.Input(context.Background())
	must(t, err)
	_, err = in.Write([]byte("typed\n"))
	must(t, err)
	must(t, in.Close())
	ended, err := s.Wait(context.Background())
	must(t, err)
	if got := all(t, s.Stdout); ended.Code != 0 || got != "up\ntyped\n" {
		t.Errorf("%v %q", ended, got)
	}
}

func TestTerminal(t *testing.T) {
	c := testContainer(t, false, nil)
	p := shell("tty; stty size; echo $TERM; [ -t 2 ] && echo all; read line; echo got $line; exit 3")
	p.Tty, p.Stdin, p.Window = true, true, &tetherv1.Window{Rows: 33, Columns: 77}
	s, err := c.Start("main", p, Options{})
	must(t, err)
	in, err := s.Input(context.Background())
	must(t, err)
	_, err = in.Write([]byte("hello\n"))
	must(t, err)
	exit, err := s.Wait(context.Background())
	must(t, err)
	got := all(t, s.Stdout)
	for _, want := range []string{"/dev/pts/0\r\n", "33 77\r\n", "xterm\r\n", "all\r\n", "got hello\r\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("terminal output %q lacks %q", got, want)
		}
	}
	if exit.Code != 3 {
		t.Errorf("exit %v", exit)
	}
}

func TestSignals(t *testing.T) {
	c := testContainer(t, false, nil)
	s, err := c.Start("main", shell("trap 'echo term' TERM; trap 'exit 4' USR1; echo ready; while :; do sleep 0.05; done"), Options{})
	must(t, err)
	waitFor(t, s.Stdout, "ready\n")
	must(t, s.Signal(unix.SIGHUP)) // not handled: PID 1 ignores it
	must(t, s.Signal(unix.SIGTERM))
	waitFor(t, s.Stdout, "ready\nterm\n")
	must(t, s.Signal(unix.SIGUSR1))
	exit, err := s.Wait(context.Background())
	must(t, err)
	if exit.Code != 4 {
		t.Errorf("exit %v", exit)
	}
	if err := s.Signal(unix.SIGTERM); err != ErrEnded {
		t.Errorf("signal to an ended process: %v", err)
	}
}

func TestKilled(t *testing.T) {
	c := testContainer(t, false, nil)
	s, err := c.Start("main", shell("sleep 1000"), Options{})
	must(t, err)
	x, err := c.Start("x", &tetherv1.Process{Args: []string{"sleep", "1000"}}, Options{})
	must(t, err)
	must(t, s.Stop(unix.SIGHUP, 0))
	for _, session := range []*Session{s, x} { // the exec dies with its PID namespace
		exit, err := session.Wait(context.Background())
		must(t, err)
		if exit.Code != 137 || exit.Signal != 9 {
			t.Errorf("%s: exit %v", session.ID, exit)
		}
	}
}

// waitFor reads the stream until it begins with want.
func waitFor(t *testing.T, r *Ring, want string) {
	t.Helper()
	reader, err := r.Reader(0, false)
	must(t, err)
	defer reader.Close()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(reader, got); err != nil || string(got) != want {
		t.Fatalf("stream began with %q (%v), not %q", got[:n], err, want)
	}
}

func TestFailures(t *testing.T) {
	c := testContainer(t, false, map[string]string{"etc/passwd": "root:x:0:0::/root:/bin/sh\n", "opt/script": "no interpreter", "opt/bad": "#!/nowhere\n"})
	must(t, c.space.Do(func() error { return os.Chmod("/etc/passwd", 0o644) }))
	_, err := c.Start("main", shell("sleep 1000"), Options{})
	must(t, err)
	for _, test := range []struct {
		p      *tetherv1.Process
		reason tetherv1.Failure_Reason
		text   string
	}{
		{&tetherv1.Process{Args: []string{"nosuch"}}, tetherv1.Failure_NOT_FOUND, `exec: "nosuch": executable file not found in $PATH`},
		{&tetherv1.Process{Args: []string{"/no/such"}}, tetherv1.Failure_NOT_FOUND, `exec: "/no/such": stat /no/such: no such file or directory`},
		{&tetherv1.Process{Args: []string{"/etc/passwd"}}, tetherv1.Failure_NOT_EXECUTABLE, `exec: "/etc/passwd": permission denied`},
		{&tetherv1.Process{Args: []string{"/etc"}}, tetherv1.Failure_NOT_EXECUTABLE, `exec: "/etc": is a directory`},
		{&tetherv1.Process{Args: []string{"/opt/script"}}, tetherv1.Failure_NOT_EXECUTABLE, `exec /opt/script: exec format error`},
		{&tetherv1.Process{Args: []string{"/opt/bad"}}, tetherv1.Failure_NOT_FOUND, `exec /opt/bad: no such file or directory`},
		{&tetherv1.Process{Args: []string{"true"}, User: "eve"}, tetherv1.Failure_NO_USER, `unable to find user eve: no matching entries in passwd file`},
		{&tetherv1.Process{Args: []string{"true"}, User: "0:eves"}, tetherv1.Failure_NO_USER, `unable to find group eves: no matching entries in group file`},
		{&tetherv1.Process{Args: []string{"true"}, Cwd: "/etc/passwd"}, tetherv1.Failure_BAD_CWD, `chdir to cwd ("/etc/passwd") set in config.json failed: not a directory`},
		{&tetherv1.Process{}, tetherv1.Failure_NOT_FOUND, `no command specified`},
	} {
		_, err := c.Start("x", test.p, Options{})
		if err == nil {
			t.Errorf("%v started", test.p)
			continue
		}
		if f := Failure(err); f.Reason != test.reason || f.Message != test.text {
			t.Errorf("%v: %v %q, want %v %q", test.p, f.Reason, f.Message, test.reason, test.text)
		}
	}
	if got := c.Sessions(); len(got) != 1 {
		t.Errorf("sessions left: %v", got)
	}
}

func TestUserAndCwd(t *testing.T) {
	c := testContainer(t, false, map[string]string{
		"etc/passwd": "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n",
		"etc/group":  "ann:x:1000:\nstaff:x:50:ann\nextra:x:60:\n",
	})
	p := shell(`id -u; id -g; id -G; pwd; echo $HOME $HOSTNAME; cat /proc/self/status | grep CapEff`)
	p.User, p.Cwd, p.Groups = "ann", "/made/here", []string{"extra", "70"}
	out, errs, exit := run(t, c, "main", p)
	want := "1000\n1000\n1000 50 60 70\n/made/here\n/home/ann box\nCapEff:\t0000000000000000\n"
	if exit.Code != 0 || out != want || errs != "" {
		t.Errorf("%v\n%q\n%q\n%s", exit, out, want, errs)
	}
}

func TestReadOnlyRoot(t *testing.T) {
	c := testContainer(t, true, nil)
	_, errs, exit := run(t, c, "main", shell("echo x > /file"))
	if exit.Code == 0 || !strings.Contains(errs, "Read-only file system") {
		t.Errorf("%v %q", exit, errs)
	}
}

// A daemon that outlives its exec session keeps neither the session open nor itself from living on.
func TestGrandchildHoldsOutput(t *testing.T) {
	c := testContainer(t, false, nil)
	_, err := c.Start("main", shell("cat /dev/zero > /dev/null"), Options{})
	must(t, err)
	out, _, exit := run(t, c, "x", shell("setsid sh -c 'while :; do echo more; sleep 0.01; done' & echo done"))
	if exit.Code != 0 || !strings.Contains(out, "done\n") {
		t.Errorf("%v %q", exit, out)
	}
}

func TestLargeOutputReachesASlowReader(t *testing.T) {
	c := testContainer(t, false, nil)
	_, err := c.Start("main", shell("sleep 1000"), Options{})
	must(t, err)
	s, err := c.Start("x", shell("head -c 9000000 /dev/zero"), Options{HoldStdout: true})
	must(t, err)
	r, err := s.Output(s.Stdout, 0)
	must(t, err)
	n, err := io.Copy(io.Discard, r)
	if err != nil || n != 9000000 || r.Dropped() != 0 {
		t.Errorf("%d bytes, %d dropped: %v", n, r.Dropped(), err)
	}
}

func TestProcessList(t *testing.T) {
	c := testContainer(t, false, map[string]string{"etc/passwd": "root:x:0:0::/root:/bin/sh\n"})
	s, err := c.Start("main", shell("echo ready; sleep 1000; true"), Options{})
	must(t, err)
	waitFor(t, s.Stdout, "ready\n")
	list, err := c.List()
	must(t, err)
	for len(list) < 2 { // the shell has yet to start its sleep
		list, err = c.List()
		must(t, err)
	}
	stranger := exec.Command("sleep", "1000") // as another's container on this machine
	stranger.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	must(t, stranger.Start())
	t.Cleanup(func() { _ = stranger.Process.Kill() }) // the container's reaper reaps it
	again, err := c.List()
	must(t, err)
	if len(again) != len(list) {
		t.Errorf("with another container there are %d processes, without %d", len(again), len(list))
	}
	if len(list) < 1 || list[0].Pid != 1 || list[0].User != "root" || !strings.HasPrefix(list[0].Command, "sh -c echo ready") || list[0].StartUnixNano == 0 {
		t.Errorf("%v", list)
	}
}

func TestLimits(t *testing.T) {
	c := testContainer(t, false, nil)
	p := shell("ulimit -n; ulimit -Hn; sleep 1000")
	p.Rlimits = []*tetherv1.Rlimit{{Name: "nofile", Soft: 123, Hard: 456}}
	main, err := c.Start("main", p, Options{})
	must(t, err)
	waitFor(t, main.Stdout, "123\n456\n")
	out, _, _ := run(t, c, "x", p2("ulimit -n", 99))
	if out != "99\n" {
		t.Errorf("exec got limit %q", out)
	}
	if _, err := c.Start("y", &tetherv1.Process{Args: []string{"true"}, Rlimits: []*tetherv1.Rlimit{{Name: "nosuch"}}}, Options{}); err == nil {
		t.Error("unknown limit taken")
	}
}

func p2(script string, files uint64) *tetherv1.Process {
	p := shell(script)
	p.Rlimits = []*tetherv1.Rlimit{{Name: "nofile", Soft: files, Hard: files}}
	return p
}

// The end of a Space meets calls that come late or at the same time: an error, whatever the order.
func TestSpaceAfterItsEnd(t *testing.T) {
	c := testContainer(t, false, nil)
	main, err := c.Start("main", shell("sleep 1000"), Options{})
	must(t, err)
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			for c.space.Do(func() error { return nil }) != ErrEnded {
				_, _ = c.Start(rand.Text(), shell("true"), Options{})
				_, _ = c.List()
			}
		})
	}
	must(t, main.Signal(unix.SIGKILL))
	<-main.Done()
	c.Close()
	c.Close()
	calls.Wait()
	if _, err := c.Start("late", shell("true"), Options{}); err != ErrEnded {
		t.Errorf("start: %v", err)
	}
	if _, err := c.List(); err != nil {
		t.Errorf("list: %v", err)
	}
}

func TestSpaceThatCannotBeEntered(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for namespaces; try: sudo go test")
	}
	broken := errors.New("broken")
	if s, err := NewSpace(func() error { return broken }); s != nil || !errors.Is(err, broken) {
		t.Errorf("%v, %v", s, err)
	}
	if s, err := NewSpace(func() error { panic("odd image") }); s != nil || err == nil || !strings.Contains(err.Error(), "odd image") {
		t.Errorf("%v, %v", s, err)
	}
	space, err := NewSpace(func() error { return unix.Chroot(t.TempDir()) }) // without /dev/pts
	must(t, err)
	if c, err := NewContainer(space, NewReaper(), "box", ""); c != nil || err == nil {
		t.Errorf("%v, %v", c, err)
	}
	if err := space.Do(func() error { return nil }); err != ErrEnded {
		t.Errorf("a call after the failure: %v", err)
	}
}

// A process that dies of its own while it is started takes nothing along.
func TestStartThatFailsEndsTheContainer(t *testing.T) {
	c := testContainer(t, false, nil)
	if _, err := c.Start("main", &tetherv1.Process{Args: []string{"/nosuch"}}, Options{}); Failure(err).Reason != tetherv1.Failure_NOT_FOUND {
		t.Errorf("%v", err)
	}
	if _, err := c.Start("main", shell("true"), Options{}); err != ErrEnded {
		t.Errorf("a second start: %v", err)
	}
	if _, err := c.List(); err != nil {
		t.Errorf("list: %v", err)
	}
}
