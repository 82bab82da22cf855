package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// victim has the test's program be the process in a group: it does what the variable says, line by line from its standard input.
const victim = "CGROUP_TEST_VICTIM"

func TestMain(m *testing.M) {
	if os.Getenv(victim) == "" {
		os.Exit(m.Run())
	}
	taken := 0
	var children []func()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		do, text, _ := strings.Cut(lines.Text(), " ")
		n, err := strconv.Atoi(text)
		switch {
		case err != nil:
		case do == "take": // MiB of memory
			// Not Go's: the race detector takes several times as much for each byte that it watches.
			_, err = unix.Mmap(-1, 0, n<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
			taken += n
		case do == "fork": // processes
			for n > 0 && err == nil {
				cmd := exec.Command(os.Args[0])
				in, _ := cmd.StdinPipe() // it waits for its end
				if err = cmd.Start(); err == nil {
					children = append(children, func() { in.Close(); _ = cmd.Wait() })
				}
				n--
			}
		}
		fmt.Println(do, taken, err)
	}
	for _, end := range children {
		end()
	}
	os.Exit(0)
}

// host is what makes groups, with the controllers that are needed, or the test is skipped.
func host(t *testing.T, need ...Controller) *Host {
	t.Helper()
	h := New()
	for _, c := range need {
		if err := h.Missing(c); err != nil {
			if os.Geteuid() == 0 && !h.unified {
				t.Fatal(err)
			}
			t.Skipf("this host limits no %s: %v: run the tests as root, or where a control group is delegated", c, err)
		}
	}
	return h
}

// process is a victim in a group.
type process struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func start(t *testing.T, g *Group) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0])}
	p.Env = append(os.Environ(), victim+"=1")
	p.in, _ = p.StdinPipe()
	out, _ := p.StdoutPipe()
	p.out = bufio.NewReader(out)
	if err := g.Start(p.Cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.end)
	return p
}

func (p *process) end() {
	if p.ProcessState == nil {
		p.in.Close()
		_ = p.Wait()
	}
}

// do has the process do something, and returns what it says.
func (p *process) do(t *testing.T, what string) (string, error) {
	t.Helper()
	if _, err := io.WriteString(p.in, what+"\n"); err != nil {
		return "", err
	}
	said, err := p.out.ReadString('\n')
	return strings.TrimSpace(said), err
}

func made(t *testing.T, h *Host, l Limits) *Group {
	t.Helper()
	g, err := h.Make(l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// A group has the process from its first instruction on, and all that it starts; it is found by the process, and gone when it is removed.
func TestStart(t *testing.T) {
	h := host(t)
	g := made(t, h, Limits{CPUs: 1, MemoryBytes: 256 << 20, PIDs: 100})
	if len(g.dirs) == 0 {
		t.Skip("this host limits nothing: " + h.String())
	}
	p := start(t, g)
	if said, err := p.do(t, "fork 2"); err != nil || said != "fork 0 <nil>" {
		t.Fatalf("said %q, %v", said, err)
	}
	for c, dir := range g.dirs {
		procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil || len(strings.Fields(string(procs))) != 3 || !strings.Contains(string(procs), strconv.Itoa(p.Process.Pid)) {
			t.Errorf("%s: the group has the processes %q, %v; want %d and two others", c, procs, err, p.Process.Pid)
		}
	}
	found, err := h.Find(p.Process.Pid)
	if err != nil || fmt.Sprint(found.dirs) != fmt.Sprint(g.dirs) {
		t.Errorf("found %v, %v, want %v", found, err, g.dirs)
	}
	if _, err := h.Find(os.Getpid()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("this process is in a group: %v", err)
	}
	if err := g.Remove(); err == nil {
		t.Error("a group with processes was removed")
	}
}

// Who starts a command stays where it is, also on the process's first thread.
func TestStarterStays(t *testing.T) {
	h := host(t)
	before, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		g := made(t, h, Limits{CPUs: 1, MemoryBytes: 256 << 20, PIDs: 100})
		start(t, g).end()
		after, err := os.ReadFile("/proc/self/cgroup")
		if err != nil || string(after) != string(before) {
			t.Fatalf("the groups were %s, and are %s, %v", before, after, err)
		}
	}
}

func TestMemory(t *testing.T) {
	h := host(t, Memory)
	const mib = 1 << 20
	// The process that takes it has the race detector's memory, too: up to 100 MiB.
	g := made(t, h, Limits{CPUs: 1, MemoryBytes: 164 * mib, PIDs: 100})
	p := start(t, g)
	if said, err := p.do(t, "take 60"); err != nil || said != "take 60 <nil>" {
		t.Fatalf("said %q, %v", said, err)
	}
	done, err := g.Copying(70 * mib) // of 60 MiB: as much as the guest has
	if err != nil {
		t.Fatal(err)
	}
	if said, err := p.do(t, "take 60"); err != nil || said != "take 120 <nil>" {
		t.Fatalf("said %q, %v", said, err)
	}
	if err := done(20 * mib); err != nil {
		t.Error(err)
	}
	if n, err := readNumber(filepath.Join(g.dirs[Memory], g.memoryFile())); err != nil || n != 184*mib {
		t.Errorf("the limit is %d, %v; want 184 MiB", n, err)
	}
	if g.Killed() {
		t.Error("a process was killed below the limit")
	}
	if said, err := p.do(t, "take 100"); err == nil {
		t.Errorf("a process takes more than the limit, and says %q", said)
	}
	if err := p.Wait(); err == nil || p.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL || !g.Killed() {
		t.Errorf("ended with %v, killed: %v", err, g.Killed())
	}
}

func TestPIDs(t *testing.T) {
	h := host(t, PIDs)
	p := start(t, made(t, h, Limits{CPUs: 1, MemoryBytes: 1 << 30, PIDs: 40}))
	if said, err := p.do(t, "fork 100"); err != nil || !strings.Contains(said, "temporarily unavailable") {
		t.Errorf("said %q, %v", said, err)
	}
}

func TestCPUs(t *testing.T) {
	h := host(t, CPU)
	g := made(t, h, Limits{CPUs: 3, MemoryBytes: 1 << 30, PIDs: 100})
	p := start(t, g)
	first := g.quota(t)
	weight, err := g.cpus(g.dirs[CPU])
	if err != nil || weight != 3 {
		t.Errorf("the group weighs %d CPUs, %v; want 3", weight, err)
	}
	for _, c := range []struct {
		cpus float64
		want string
	}{{1.5, "150000 100000"}, {0.0001, "1000 100000"}, {2, "200000 100000"}, {0, first}} {
		if err := g.SetCPUs(c.cpus); err != nil {
			t.Fatal(err)
		}
		if got := g.quota(t); got != c.want {
			t.Errorf("%v CPUs: the quota is %s, want %s", c.cpus, got, c.want)
		}
	}
	p.end()
}

func TestDefaultQuota(t *testing.T) {
	if got := defaultQuota(1 << 20); got != -1 {
		t.Errorf("more CPUs than the host has: a quota of %d", got)
	}
	if got := defaultQuota(-1); got != 0 { // as if it had none: the host has at least one
		t.Errorf("quota %d", got)
	}
}

// What a daemon that was killed has left is removed, but for what others still use.
func TestSweep(t *testing.T) {
	h := host(t, Memory)
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	dir := h.parents[Memory]
	left := filepath.Join(dir, fmt.Sprintf("%d-1", gone.Process.Pid))
	others := filepath.Join(dir, fmt.Sprintf("%d-1000000", os.Getppid()))
	for _, d := range []string{left, others} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(d)
	}
	New()
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was left is there: %v", err)
	}
	if _, err := os.Stat(others); err != nil {
		t.Errorf("another daemon's group: %v", err)
	}
}

// Without any controller machines start, and nothing is limited.
func TestNone(t *testing.T) {
	h := &Host{missing: map[Controller]error{Memory: errors.New("not here")}}
	g, err := h.Make(Limits{CPUs: 1, MemoryBytes: 1, PIDs: 1})
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, g)
	done, err := g.Copying(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(done(1), g.SetCPUs(1), g.Remove()); err != nil || g.Killed() {
		t.Errorf("a group of nothing: %v, killed: %v", err, g.Killed())
	}
	p.end()
	if text := h.String(); !strings.Contains(text, "not here") {
		t.Errorf("described as %q", text)
	}
}

// quota is a group's quota and period.
func (g *Group) quota(t *testing.T) string {
	t.Helper()
	files := []string{"cpu.max"}
	if !g.unified {
		files = []string{"cpu.cfs_quota_us", "cpu.cfs_period_us"}
	}
	var all []string
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(g.dirs[CPU], f))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.TrimSpace(string(text)))
	}
	return strings.Join(all, " ")
}

func BenchmarkStart(b *testing.B) {
	h := New()
	for name, h := range map[string]*Host{"none": {}, "all": h} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				g, err := h.Make(Limits{CPUs: 1, MemoryBytes: 1 << 30, PIDs: 100})
				if err != nil {
					b.Fatal(err)
				}
				cmd := exec.Command("/bin/true")
				if err := g.Start(cmd); err != nil {
					b.Fatal(err)
				}
				_ = cmd.Wait()
				if err := g.Remove(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
