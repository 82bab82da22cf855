package vmtest

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// Options choose what kind of host a test gets; the zero value is `cvm up`: both daemons in one process.
type Options struct {
	Split bool   // hostd-bridge and controller as two processes, which Kill and Restart act on
	Guest string // directory of guest artefacts in place of the built ones
	Path  string // directory put before PATH, for a fake QEMU
	State string // directory of disks, images and records; empty: one of the host's own
	// Fork has containers forked as soon as there is a template; else all boot. Nothing is made ahead of time in either case: what
	// is left of a machine could not be told from what waits to be one.
	Fork bool
}

// HostGateway is which ports of the loopback a host lets containers reach that ask for it: those on which tests listen.
const HostGateway = "1024-65535"

// templates is how many templates the host may have.
func (o Options) templates() string {
	if o.Fork {
		return "4"
	}
	return "0"
}

// Host is a host for one test or for the subtests of one. Its methods must be called from the test's own goroutine.
type Host struct {
	Dir   string // the directory of everything below, which is gone after the test
	State string
	Run   string

	tb      testing.TB
	opts    Options
	files   artefacts
	env     []string // of all its processes and clients
	taps    int      // TAP devices of the machine before the host started
	daemons map[string]*daemon
}

// commandTimeout bounds every client command of a test: far above what any needs on a slow machine.
const commandTimeout = 4 * time.Minute

// Start starts a host and stops it when the test ends, which fails when anything is left of the host.
func Start(tb testing.TB, o Options) *Host {
	tb.Helper()
	files := need(tb)
	if o.Guest != "" {
		files.guest = o.Guest
	}
	dir, err := os.MkdirTemp("", "cvm-") // not tb.TempDir: its names are too long for sockets
	if err != nil {
		tb.Fatal(err)
	}
	h := &Host{
		Dir: dir, State: filepath.Join(dir, "s"), Run: filepath.Join(dir, "r"),
		tb: tb, opts: o, files: files, taps: countTAPs(), daemons: map[string]*daemon{},
	}
	if o.State != "" {
		h.State = o.State
	}
	h.env = h.baseEnv()
	tb.Cleanup(func() { h.end() })
	h.Up()
	return h
}

// baseEnv is the environment of every process that belongs to the host.
func (h *Host) baseEnv() []string {
	path := os.Getenv("PATH")
	if h.opts.Path != "" {
		path = h.opts.Path + ":" + path
	}
	return append(os.Environ(),
		"PATH="+path, "CVM_STATE="+h.State, "CVM_RUN="+h.Run, "CVM_GUEST_DIR="+h.files.guest,
		"HOME="+h.Dir, "DOCKER_CONFIG="+filepath.Join(h.Dir, "docker"), "GOVMOMI_HOME="+filepath.Join(h.Dir, "govmomi"))
}

// Up starts the host, or starts it again after Down.
func (h *Host) Up() {
	h.tb.Helper()
	if h.opts.Split {
		h.startSplit()
		return
	}
	h.mustCVM("up", "--listen", "127.0.0.1:0", "--accel", os.Getenv("CVM_ACCEL"),
		"--templates", h.opts.templates(), "--warm", "0", "--prestart", "0", "--host-gateway", HostGateway)
	var env map[string]string
	if err := json.Unmarshal([]byte(h.mustCVM("env", "--json")), &env); err != nil {
		h.tb.Fatalf("cannot read cvm env: %v", err)
	}
	h.setEnv(env)
}

// setEnv adds variables for the host's clients.
func (h *Host) setEnv(env map[string]string) {
	h.env = h.baseEnv()
	for k, v := range env {
		h.env = append(h.env, k+"="+v)
	}
}

// Down stops the host and every container.
func (h *Host) Down() {
	h.tb.Helper()
	if h.opts.Split {
		h.stopSplit()
		return
	}
	h.mustCVM("down")
}

func (h *Host) mustCVM(args ...string) string {
	h.tb.Helper()
	r := h.CVM(h.tb, args...)
	if r.Code != 0 {
		h.tb.Fatalf("cvm %v: exit %d: %s", args, r.Code, r.Stderr)
	}
	return r.Stdout
}

// end is the last thing in a host's life: it reports, stops, counts, and removes.
func (h *Host) end() {
	h.report()
	func() {
		defer h.killRest() // also when Down fails
		h.Down()
		h.checkGone()
	}()
	if err := os.RemoveAll(h.Dir); err != nil {
		h.tb.Errorf("cannot remove the host's directory: %v", err)
	}
}

// Result is how a client command ended.
type Result struct {
	Stdout, Stderr string
	Code           int // exit status; -1: ended by a signal or by the time limit
}

// Command prepares a client command with the host's environment. The caller starts it.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = slices.Clone(h.env)
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// Exec runs a client command to its end.
func (h *Host) Exec(tb testing.TB, name string, args ...string) Result {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), commandTimeout) // cleanups run it too
	defer cancel()
	return h.Finish(tb, h.Command(ctx, name, args...))
}

// Finish runs a prepared command to its end. Standard streams that the caller has set stay as they are.
func (h *Host) Finish(tb testing.TB, cmd *exec.Cmd) Result {
	tb.Helper()
	var stdout, stderr bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &stdout
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &stderr
	}
	err := cmd.Run()
	if cmd.ProcessState == nil {
		tb.Fatalf("cannot run %v: %v", cmd.Args, err)
	}
	return Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// CVM runs bin/cvm.
func (h *Host) CVM(tb testing.TB, args ...string) Result {
	tb.Helper()
	return h.Exec(tb, h.cvm(), args...)
}

func (h *Host) cvm() string { return filepath.Join(h.files.bin, "cvm") }

// CVMPath is the path of the cvm under test, for a test that starts it in a way of its own.
func (h *Host) CVMPath() string { return h.cvm() }

// Docker runs the stock docker command line.
func (h *Host) Docker(tb testing.TB, args ...string) Result {
	tb.Helper()
	NeedProgram(tb, "docker", "docker.io")
	return h.Exec(tb, "docker", args...)
}

// GovcPath is the path of bin/govc, vSphere's own command line.
func (h *Host) GovcPath() string { return filepath.Join(h.files.bin, "govc") }

// MustDocker is Docker for a command that has to succeed; it returns standard output without the last newline.
func (h *Host) MustDocker(tb testing.TB, args ...string) string {
	tb.Helper()
	r := h.Docker(tb, args...)
	if r.Code != 0 {
		tb.Fatalf("docker %v: exit %d\nstdout: %s\nstderr: %s", args, r.Code, r.Stdout, r.Stderr)
	}
	return string(bytes.TrimRight([]byte(r.Stdout), "\r\n"))
}

// Eventually waits until done reports true, for what no event announces, and fails the test at the limit.
func Eventually(tb testing.TB, limit time.Duration, what string, done func() bool) {
	tb.Helper()
	for end := time.Now().Add(limit); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("waited %v and it has not come true: %s", limit, what)
		}
	}
}
