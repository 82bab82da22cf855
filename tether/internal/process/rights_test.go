package process

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// TestMain is also the init of the containers that these tests make: see TestInit.
func TestMain(m *testing.M) {
	if IsInit() {
		os.Exit(Init(os.Stderr))
	}
	os.Exit(m.Run())
}

const showRights = "grep -E '^(CapInh|CapPrm|CapEff|CapBnd|NoNewPrivs)' /proc/self/status | tr '\\t\\n' '  '"

// rightsShown are the lines of /proc/self/status as showRights prints them.
func rightsShown(permitted, bounding uint64, noNew int) string {
	return fmt.Sprintf("CapInh: %016x CapPrm: %016x CapEff: %016x CapBnd: %016x NoNewPrivs: %d ", 0, permitted, permitted, bounding, noNew)
}

func allRights(t *testing.T) uint64 {
	t.Helper()
	status, err := os.ReadFile("/proc/thread-self/status") // the first thread may be one that a Space has left
	must(t, err)
	var all uint64
	_, err = fmt.Sscanf(statusLine(string(status), "CapBnd"), "%x", &all)
	must(t, err)
	return all
}

func withRights(script string, names ...string) *tetherv1.Process {
	p := shell(script)
	p.Capabilities = &tetherv1.Capabilities{Names: names}
	return p
}

// PID 1 has less than everything, and whoever comes after it what its own description says: the thread that forks loses what it takes.
func TestRights(t *testing.T) {
	c := testContainer(t, false, map[string]string{"bin/tr": ""})
	linkBusybox(t, c, "tr")
	all := allRights(t)
	const netAdmin, chown = 1 << unix.CAP_NET_ADMIN, 1 << unix.CAP_CHOWN
	main := withRights(showRights+"; echo; sleep 1000", "CAP_NET_ADMIN", "CAP_CHOWN")
	main.NoNewPrivileges = true
	s, err := c.Start("main", main, Options{})
	must(t, err)
	waitFor(t, s.Stdout, rightsShown(netAdmin|chown, netAdmin|chown, 1))
	user := withRights(showRights, "CAP_CHOWN")
	user.User = "1000"
	noNew := shell(showRights)
	noNew.NoNewPrivileges = true
	for i, test := range []struct {
		p    *tetherv1.Process
		want string
	}{
		{shell(showRights), rightsShown(all, all, 0)},
		{withRights(showRights), rightsShown(0, 0, 0)},
		{user, rightsShown(0, chown, 0)},
		{noNew, rightsShown(all, all, 1)},
		{shell(showRights), rightsShown(all, all, 0)},
	} {
		out, errs, exit := run(t, c, fmt.Sprint("x", i), test.p)
		if out != test.want || exit.Code != 0 {
			t.Errorf("%d: %v\n%q\n%q\n%s", i, exit, out, test.want, errs)
		}
	}
	if _, err := c.Start("y", withRights("true", "CAP_NOSUCH"), Options{}); err == nil || !strings.Contains(err.Error(), `unknown capability "CAP_NOSUCH"`) {
		t.Error(err)
	}
	if out, _, exit := run(t, c, "z", shell("echo here; cat /etc/hostname")); out != "here\nbox\n" || exit.Code != 0 {
		t.Errorf("after a failure: %q, %v", out, exit)
	}
}

func linkBusybox(t *testing.T, c *Container, names ...string) {
	t.Helper()
	for _, name := range names {
		must(t, c.Do(func() error {
			_ = os.Remove("/bin/" + name)
			return os.Symlink("busybox", "/bin/"+name)
		}))
	}
}

// Threads that take over from each other, with calls at the same time and the end in the middle of it.
func TestSpaceIsHandedOver(t *testing.T) {
	c := testContainer(t, false, nil)
	main, err := c.Start("main", withRights("sleep 1000", "CAP_KILL"), Options{})
	must(t, err)
	var calls sync.WaitGroup
	for n := range 4 {
		calls.Go(func() {
			for i := range 10 {
				s, err := c.Start(fmt.Sprintf("x%d.%d", n, i), withRights("grep NSpid /proc/self/status"), Options{})
				if err != nil {
					t.Error(err)
					return
				}
				if exit, err := s.Wait(context.Background()); err != nil || exit.Code != 0 {
					t.Error(exit, err)
				}
				if err := c.Do(func() error { _, err := os.Stat("/etc/hostname"); return err }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	calls.Wait()
	must(t, main.Signal(unix.SIGKILL))
	<-main.Done()
	if _, err := c.Start("late", withRights("true"), Options{}); err != ErrEnded {
		t.Errorf("after the end: %v", err)
	}
}

// A process with less rights that cannot be started leaves the container able to end in order.
func TestRestrictedStartFails(t *testing.T) {
	c := testContainer(t, false, nil)
	p := withRights("true")
	p.Args = []string{"/nosuch"}
	if _, err := c.Start("main", p, Options{}); Failure(err).Reason != tetherv1.Failure_NOT_FOUND {
		t.Error(err)
	}
	must(t, c.Do(func() error { _, err := os.Stat("/etc/hostname"); return err }))
}

func TestOOMScoreUmaskAndCwd(t *testing.T) {
	c := testContainer(t, false, nil)
	main := shell("cat /proc/self/oom_score_adj; umask; pwd; stat -c %a:%u:%g /made/here; sleep 1000")
	main.OomScoreAdj, main.Umask, main.Cwd = 123, &tetherv1.Umask{Mask: 0o027}, "/made/here"
	linkBusybox(t, c, "stat")
	s, err := c.Start("main", main, Options{})
	must(t, err)
	waitFor(t, s.Stdout, "123\n0027\n/made/here\n755:0:0\n")
	x := shell("cat /proc/self/oom_score_adj; umask; pwd")
	x.OomScoreAdj, x.Cwd = 500, "made"
	if _, err := c.Start("x", x, Options{}); Failure(err).Message != "Cwd must be an absolute path" {
		t.Error(err)
	}
	x.Cwd = "/missing"
	if _, err := c.Start("x", x, Options{}); Failure(err).Reason != tetherv1.Failure_BAD_CWD ||
		err.Error() != `chdir to cwd ("/missing") set in config.json failed: no such file or directory` {
		t.Error(err)
	}
	x.Cwd = "/made"
	if out, _, _ := run(t, c, "x", x); out != "500\n0022\n/made\n" {
		t.Errorf("%q", out)
	}
	if out, _, _ := run(t, c, "y", shell("cat /proc/self/oom_score_adj")); out != "0\n" {
		t.Errorf("%q", out)
	}
	limited := shell("true")
	limited.Rlimits = []*tetherv1.Rlimit{{Name: "nofile", Soft: 1 << 40, Hard: 1 << 40}}
	if _, err := c.Start("z", limited, Options{}); err == nil || !strings.Contains(err.Error(), "error setting rlimit type 7: operation not permitted") {
		t.Error(err)
	}
}

func TestCovers(t *testing.T) {
	c := testContainer(t, false, map[string]string{"secret/file": "secret", "open/file": "open", "fixed/file": "fixed"})
	c.Configure(Covers{
		Masked:   []string{"/secret", "/open/file", "/proc/kallsyms", "/nosuch", "/open/file/below"},
		ReadOnly: []string{"/fixed", "/proc/sys", "/nosuch"},
	}, false)
	linkBusybox(t, c, "ls", "wc")
	out, errs, exit := run(t, c, "main", shell(`ls /secret; cat /open/file; wc -c </proc/kallsyms; cat /fixed/file
		echo x >/fixed/new; echo x >/secret/new; echo x >/proc/sys/vm/swappiness; echo y >/open/new && echo free`))
	if out != "0\nfixedfree\n" || exit.Code != 0 || strings.Count(errs, "Read-only file system") != 3 {
		t.Errorf("%v %q %q", exit, out, errs)
	}
}

// The init is PID 1, passes signals on, reaps, and ends as its child does.
func TestInit(t *testing.T) {
	self, err := os.Executable()
	must(t, err)
	program, err := os.ReadFile(self)
	must(t, err)
	libraries := librariesOf(t, self)
	withInit := func(t *testing.T) *Container {
		c := testContainer(t, false, libraries)
		must(t, c.Do(func() error {
			if err := os.MkdirAll("/dev/cvm", 0o755); err != nil {
				return err
			}
			return os.WriteFile(InitProgram, program, 0o755)
		}))
		linkBusybox(t, c, "tr", "nice")
		c.Configure(Covers{}, true)
		return c
	}
	t.Run("a child with its signals", func(t *testing.T) {
		c := withInit(t)
		s, err := c.Start("main", shell(`trap 'echo term' TERM; trap 'exit 7' USR1; echo parent $PPID
			cat /proc/1/cmdline | tr '\0' ' ' | head -c 40; echo; (sleep 0 & exec sleep 0.1); while :; do sleep 0.05; done`), Options{})
		must(t, err)
		head := "parent 1\n" + (InitProgram + " /bin/sh -- sh -c trap")[:40] + "\n"
		waitFor(t, s.Stdout, head)
		must(t, s.Signal(unix.SIGTERM))
		waitFor(t, s.Stdout, head+"term\n")
		must(t, s.Signal(unix.SIGUSR1))
		exit, err := s.Wait(context.Background())
		must(t, err)
		if exit.Code != 7 {
			t.Errorf("%v", exit)
		}
	})
	for script, code := range map[string]int32{"exit 3": 3, "kill -9 $$": 137} {
		t.Run(script, func(t *testing.T) {
			if _, _, exit := run(t, withInit(t), "main", shell(script)); exit.Code != code {
				t.Errorf("%v", exit)
			}
		})
	}
	t.Run("a user and a terminal", func(t *testing.T) {
		p := withRights("tty; id -u; [ -t 0 ] && read line; echo got $line; exec 0<&- ; exit 4")
		p.User, p.Tty, p.Stdin = "1000", true, true
		s, err := withInit(t).Start("main", p, Options{})
		must(t, err)
		in, err := s.Input(context.Background())
		must(t, err)
		_, err = in.Write([]byte("hello\n"))
		must(t, err)
		exit, err := s.Wait(context.Background())
		must(t, err)
		if out := all(t, s.Stdout); exit.Code != 4 || !strings.Contains(out, "/dev/pts/0\r\n1000\r\n") || !strings.Contains(out, "got hello\r\n") {
			t.Errorf("%v %q", exit, out)
		}
	})
	t.Run("no such interpreter", func(t *testing.T) {
		c := withInit(t)
		must(t, c.Do(func() error { return os.WriteFile("/bad", []byte("#!/nowhere\n"), 0o755) }))
		_, errs, exit := run(t, c, "main", &tetherv1.Process{Args: []string{"/bad"}})
		if exit.Code != 127 || !strings.Contains(errs, "exec /bad: no such file or directory") {
			t.Errorf("%v %q", exit, errs)
		}
	})
}

// librariesOf are what the test's own program needs when it is linked with cgo: the loader and shared libraries, by their paths.
func librariesOf(t *testing.T, program string) map[string]string {
	t.Helper()
	files := map[string]string{}
	out, err := exec.Command("ldd", program).Output()
	if err != nil {
		return files // it is static
	}
	for _, word := range strings.Fields(string(out)) {
		if strings.HasPrefix(word, "/") {
			text, err := os.ReadFile(word)
			must(t, err)
			files[word[1:]] = string(text)
		}
	}
	return files
}

// A cgroup of plain files: the kernel's own are in the tests with machines.
func TestSetLimits(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"pids.max": "1000\n", "cpu.weight": "100\n", "cpuset.cpus": "\n", "memory.low": "0\n"} {
		must(t, os.WriteFile(dir+"/"+name, []byte(text), 0o600))
	}
	cgroup, err := os.Open(dir)
	must(t, err)
	defer cgroup.Close()
	c := &Container{cgroup: cgroup}
	see := func(want map[string]string) {
		t.Helper()
		for name, value := range want {
			f, err := os.ReadFile(dir + "/" + name)
			if line, _, _ := strings.Cut(string(f), "\n"); err != nil || line != value {
				t.Errorf("%s: %q, want %q, %v", name, line, value, err)
			}
		}
	}
	must(t, c.SetLimits(Limits{Pids: 20, CPUs: "0-1", MemoryLow: 4096, CPUWeight: 7}))
	see(map[string]string{"pids.max": "20", "cpuset.cpus": "0-1", "memory.low": "4096", "cpu.weight": "7"})
	must(t, c.SetLimits(Limits{Pids: 5000}))
	see(map[string]string{"pids.max": "1000", "cpuset.cpus": "", "memory.low": "0", "cpu.weight": "100"})
	must(t, os.Remove(dir+"/cpuset.cpus"))
	must(t, c.SetLimits(Limits{}))
	if err := c.SetLimits(Limits{CPUs: "0"}); err == nil {
		t.Error("a limit without its controller is taken")
	}
	if err := (&Container{}).SetLimits(Limits{}); err != ErrNoCgroup {
		t.Error(err)
	}
}

// A process that has ended by the time that its thread hands over was started nevertheless.
func TestRestrictedProcessEndsAtOnce(t *testing.T) {
	for range 10 {
		c := testContainer(t, false, nil)
		p := &tetherv1.Process{Args: []string{"/bin/true"}, NoNewPrivileges: true}
		if _, _, exit := run(t, c, "main", p); exit.Code != 0 {
			t.Errorf("%v", exit)
		}
		must(t, c.Do(func() error { _, err := os.Stat("/etc/hostname"); return err }))
	}
}
