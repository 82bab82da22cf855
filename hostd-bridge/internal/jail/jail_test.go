package jail

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// attacker builds the program that takes QEMU's and the supervisor's place. It is static, as the supervisor is.
func attacker(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "attacker")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, "./attacker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the attacker: %v\n%s", err, out)
	}
	return path
}

func newHost(t *testing.T, c Config) *Host {
	t.Helper()
	h, err := New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// runIn runs the supervisor's program in a new jail and returns what it said and how it ended.
func runIn(t *testing.T, h *Host, args ...string) string {
	t.Helper()
	cell, err := h.NewCell(64)
	if err != nil {
		t.Fatal(err)
	}
	defer cell.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := cell.command(args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer context.AfterFunc(ctx, func() { cmd.Process.Kill() })()
	if err := cmd.Wait(); err != nil {
		said.WriteString("[" + err.Error() + "]")
	}
	return strings.TrimSpace(said.String())
}

// victims are things of the host that an attacker would like to have.
type victims struct {
	secret, socket, tcp string
	pid                 string // of a process of the host
}

func newVictims(t *testing.T) victims {
	t.Helper()
	dir := t.TempDir()
	v := victims{secret: filepath.Join(dir, "disk.vmdk"), socket: filepath.Join(dir, "docker.sock"), pid: strconv.Itoa(os.Getpid())}
	if err := os.WriteFile(v.secret, []byte("another machine's"), 0o666); err != nil {
		t.Fatal(err)
	}
	for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) { // no mode of a file is to be the wall
		_ = os.Chmod(d, 0o755) // those that are ours
	}
	for network, at := range map[string]*string{"unix": &v.socket, "tcp": &v.tcp} {
		address := *at
		if network == "tcp" {
			address = "127.0.0.1:0"
		}
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		*at = l.Addr().String()
	}
	if err := os.Chmod(v.socket, 0o777); err != nil {
		t.Fatal(err)
	}
	return v
}

// Walls, by what shows them.
const (
	filter  = "filter"       // the call ends the process
	root    = "root"         // there is no such file, and none can be made
	nonet   = "network"      // there is no network
	nosuch  = "processes"    // there is no such process
	noright = "capabilities" // or another user
	bound   = "limit"
	errno   = "filter's error" // the call fails by the filter
	open    = "open"           // harmless by itself: it says why
)

// wallOf names the wall that an attempt ended at, and "none" when it succeeded.
func wallOf(said string, filtered bool) string {
	switch first, _, _ := strings.Cut(said, "\n"); {
	case strings.Contains(first, "bad system call"):
		return filter
	case strings.Contains(first, "failed to create new OS thread"):
		return bound
	default:
		switch first {
		case "ENOENT", "EROFS":
			return root
		case "ENETUNREACH", "EADDRNOTAVAIL", "ECONNREFUSED":
			return nonet
		case "ESRCH":
			return nosuch
		case "EPERM", "EACCES":
			if filtered {
				return errno
			}
			return noright
		case "ENOSYS":
			if filtered {
				return errno
			}
			return "kernel"
		case "EAGAIN", "EMFILE", "ENOMEM":
			return bound
		}
		return "none: " + first
	}
}

// attempt is what an attacker tries, and the wall that stops it: without a filter, in QEMU's place, in the supervisor's.
type attempt struct{ try, bare, qemu, supervisor string }

func attempts(v victims) []attempt {
	all := func(wall string, tries ...string) (a []attempt) {
		for _, t := range tries {
			a = append(a, attempt{t, wall, wall, wall})
		}
		return a
	}
	filtered := func(bare string, tries ...string) (a []attempt) {
		for _, t := range tries {
			a = append(a, attempt{t, bare, filter, filter})
		}
		return a
	}
	a := all(root, "read "+v.secret, "write "+v.secret, "read /etc/passwd", "read /etc/shadow", "read /proc/kcore", "read /proc/sys/kernel/hostname",
		"write /proc/sysrq-trigger", "write /planted", "write /dev/planted", "write /tmp/planted", "write /cvm-supervisor", "list /etc", "list /run", "list /sys", "climb",
		"fill /", "fill /dev/", "fill /tmp/")
	a = append(a, all(bound, "threads", "allocate", "descriptors")...)
	a = append(a, attempt{"connect " + v.socket, root, errno, filter}, attempt{"connect @cvm", nonet, errno, filter})
	for _, t := range []string{"tcp " + v.tcp, "tcp 10.0.0.1:443", "udp 127.0.0.1:53", "udp 10.0.0.1:53", "tcp [::1]:22"} {
		a = append(a, attempt{t, nonet, errno, filter})
	}
	a = append(a, filtered(nosuch, "signal "+v.pid, "signal-all", "trace "+v.pid)...)
	a = append(a, filtered(noright, "mount", "remount", "pivot", "chroot", "reboot", "hostname", "clock", "caps", "syslog", "swap", "trace 1")...)
	if os.Geteuid() == 0 { // in a user namespace there is one user alone
		a = append(a, filtered(noright, "setuid", "setuid-1")...)
	}
	// Of what follows another kernel may have none, or let everyone have it: the filter is the wall.
	a = append(a, filtered(open, "unshare", "setns", "bpf", "keyctl", "perf", "module", "open-by-handle", "quota", "personality", "mknod", "call32", "x32")...)
	return append(a,
		attempt{"packet", noright, errno, filter},
		attempt{"memory " + v.pid, nosuch, filter, nosuch}, attempt{"pidfd " + v.pid, nosuch, filter, nosuch},
		attempt{"renice " + v.pid, nosuch, errno, filter}, attempt{"renice 0", open, errno, filter},
		attempt{"io_uring", open, errno, errno}, attempt{"userfault", open, errno, filter},
		attempt{"raise-limit", noright, errno, errno}, attempt{"limit-other " + v.pid, nosuch, errno, errno},
		attempt{"execute /bin/sh", root, root, filter}, attempt{"fork", bound, filter, filter},
	)
}

// TestAttacker: a program in QEMU's place, in the supervisor's, and without any filter fails at all that it tries on its host, and at the
// wall that is meant to stop it. As root it does so a second time as an ordinary user, whose machines have a user namespace.
func TestAttacker(t *testing.T) {
	a := os.Getenv(attackerEnv)
	if a == "" {
		a = attacker(t)
	}
	h := newHost(t, Config{QEMU: []string{a}, Supervisor: a})
	level, why := h.Level()
	switch {
	case level == None:
		t.Skipf("this host makes no jails: %s", why)
	case os.Geteuid() == 0 && level != Full:
		t.Fatalf("root's jail is %v: %s", level, why)
	}
	v := newVictims(t)
	walls := map[string]int{}
	for _, x := range attempts(v) {
		args := strings.Fields(x.try)
		for _, place := range []struct {
			name, want string
			args       []string
		}{
			{"without a filter", x.bare, args}, {"in QEMU's place", x.qemu, LauncherArgs(QEMUCalls{}, -1, a, args...)},
			{"in the supervisor's place", x.supervisor, append([]string{"supervisor"}, args...)},
		} {
			if place.want == open {
				continue
			}
			said := runIn(t, h, place.args...)
			if got := wallOf(said, place.name != "without a filter"); got != place.want {
				t.Errorf("%s, %s: stopped by %s, want %s: %.200s", x.try, place.name, got, place.want, said)
			}
			walls[place.want]++
		}
	}
	t.Logf("level %v; attempts by the wall that stopped them: %v", level, walls)
	if os.Geteuid() == 0 {
		t.Run("ordinary user", func(t *testing.T) { asOrdinaryUser(t, "TestAttacker", a) })
	}
}

// attackerEnv says where the attacker is that another test has built.
const attackerEnv = "CVM_TEST_ATTACKER"

// asOrdinaryUser runs a test of this program as user and group 65534.
func asOrdinaryUser(t *testing.T, test, attacker string) {
	t.Helper()
	if err := os.Chmod(filepath.Dir(attacker), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(filepath.Dir(attacker)), 0o755); err != nil {
		t.Fatal(err)
	}
	self := copyOf(t, filepath.Dir(attacker))
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+test+"$", "-test.v")
	cmd.Dir = filepath.Dir(attacker)
	cmd.Env = []string{attackerEnv + "=" + attacker, "TMPDIR=" + os.TempDir()}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("as an ordinary user: %v\n%s", err, out)
	}
	if !strings.Contains(string(out), "--- PASS: "+test) {
		t.Skipf("as an ordinary user nothing was shown:\n%s", out)
	}
	t.Logf("%s", out)
}

// copyOf copies this program to where others may execute it.
func copyOf(t *testing.T, dir string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "jail.test")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestIdentity: what a machine's processes are, have and see.
func TestIdentity(t *testing.T) {
	a := attacker(t)
	h := newHost(t, Config{QEMU: []string{a}, Supervisor: a})
	level, why := h.Level()
	if level != Full {
		t.Skipf("a machine has no user of its own: %v: %s", level, why)
	}
	status := runIn(t, h, "identity")
	for _, want := range []string{"Uid:\t20000", "Groups:\t \n", "NoNewPrivs:\t1", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000",
		"CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "NSpid:\t1\n", "Umask:\t0077"} {
		if !strings.Contains(status, want) {
			t.Errorf("no %q in\n%s", want, status)
		}
	}
	for try, want := range map[string]string{
		"list /": "cvm-supervisor dev proc tmp done", "list /dev": "null urandom done", "list /proc": "1 self thread-self done", "environment": "0 done",
	} {
		if got := runIn(t, h, strings.Fields(try)...); got != want {
			t.Errorf("%s: %q, want %q", try, got, want)
		}
	}
	if got := runIn(t, h, "inherited"); strings.Count(got, " ") != 1 || !strings.HasPrefix(got, usersDir) {
		t.Errorf("it has descriptors of %q, want its user's lock alone", got)
	}
}

// TestUsers: two machines never have one user, whoever takes it, and a user is free when its machine's processes are gone.
func TestUsers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "users")
	one, err := newIDs(dir, Range{First: 3_000_000_000, Count: 3})
	if err != nil {
		t.Fatal(err)
	}
	two, err := newIDs(dir, one.Range) // another daemon's
	if err != nil {
		t.Fatal(err)
	}
	taken := map[uint32]*os.File{}
	for _, i := range []*ids{one, two, one} {
		id, lock, err := i.take()
		if err != nil {
			t.Fatal(err)
		}
		if taken[id] != nil || id < 3_000_000_000 || id > 3_000_000_002 {
			t.Errorf("%d was given, with %v taken", id, taken)
		}
		taken[id] = lock
	}
	if _, _, err := two.take(); err == nil {
		t.Error("a fourth of three users was given")
	}
	taken[3_000_000_001].Close()
	if id, _, err := two.take(); err != nil || id != 3_000_000_001 {
		t.Errorf("the free user is %d, %v", id, err)
	}
}

// TestRange: numbers that others have are refused by their names.
func TestRange(t *testing.T) {
	r := Range{First: 100_000, Count: 65_536}
	for line, want := range map[string]string{
		"dev:165535:10": `"dev"`, "dev:34465:65536": `"dev"`, "dev:165536:10": "", "dev:34464:65536": "", "nonsense": "", "a:b:c": "",
	} {
		if got, err := r.overlap(strings.NewReader(line+"\n"), true); err != nil || got != want {
			t.Errorf("subuid %q: %q, %v", line, got, err)
		}
	}
	for line, want := range map[string]string{"eve:x:100000:1::/:": `"eve"`, "eve:x:99999:1::/:": ""} {
		if got, err := r.overlap(strings.NewReader(line), false); err != nil || got != want {
			t.Errorf("passwd %q: %q, %v", line, got, err)
		}
	}
	for _, bad := range []Range{{}, {First: 0, Count: 10}, {First: 1<<32 - 10, Count: 20}} {
		if err := bad.check(); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}
