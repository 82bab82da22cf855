package qemu

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/internal/vmtest"
	"github.com/containervm/containervm/tether/link"
)

// patience is how long a test waits for a guest; it only bounds a failure.
const patience = 2 * time.Minute

// testRun is the number of the runs of this package's tests.
const testRun = 3

// guest is a running VM with testdata/echoinit as its init.
type guest struct {
	vm.Machine
	t    testing.TB
	h    *Hypervisor
	spec vm.MachineSpec
}

// Ports of echoinit.
const (
	portEcho   = link.PortLink
	portSink   = link.PortLink + 1
	portQuit   = link.PortLink + 2
	portDisk   = link.PortLink + 3
	portSource = link.PortLink + 4
	portAsk    = link.PortLink + 5
)

// newHypervisor builds the supervisor for a test.
func newHypervisor(t testing.TB) *Hypervisor {
	t.Helper()
	if testing.Short() {
		t.Skip("starts real VMs (leave -short out)")
	}
	program := filepath.Join(t.TempDir(), "cvm-supervisor")
	buildProgram(t, program, "github.com/containervm/containervm/hostd-bridge/supervisor")
	h, err := New(t.Context(), Config{Supervisor: program, Datastore: "/", Accel: os.Getenv("CVM_TEST_ACCEL"), Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		vmtest.Missing(t, err.Error())
	}
	return h
}

func buildProgram(t testing.TB, out, pkg string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build %s: %v: %s", pkg, err, b)
	}
}

// guestSpec describes a VM for a test. CVM_TEST_KERNEL, CVM_TEST_INITRD, CVM_TEST_MACHINE and CVM_TEST_CMDLINE choose another guest.
func guestSpec(t testing.TB) vm.MachineSpec {
	t.Helper()
	dir := t.TempDir()
	s := vm.MachineSpec{
		Ref: "vm-1", Run: testRun, Name: "test, with a comma", UUID: "564d0000-0000-4000-8000-000000000001",
		RunDir: filepath.Join(dir, "run"), HomeDir: filepath.Join(dir, "home, too"), CPUs: 1, MemoryMiB: 256, CID: 77,
		Machine: os.Getenv("CVM_TEST_MACHINE"), Kernel: os.Getenv("CVM_TEST_KERNEL"), Initrd: os.Getenv("CVM_TEST_INITRD"),
		Cmdline:   os.Getenv("CVM_TEST_CMDLINE"),
		NICs:      []vm.NIC{{MAC: "52:54:00:12:34:56", Connected: true}},
		Guestinfo: map[string]string{"guestinfo.greeting": "hello"},
	}
	for _, d := range []string{s.RunDir, s.HomeDir} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if s.Kernel == "" {
		s.Kernel = builtKernel(t, "vmlinux")
	}
	if s.Initrd == "" {
		s.Initrd = filepath.Join(dir, "initramfs.cpio")
		buildProgram(t, filepath.Join(dir, "init"), "./testdata/echoinit")
		writeInitramfs(t, s.Initrd, filepath.Join(dir, "init"))
	}
	return s
}

// builtKernel finds a kernel that make guest built.
func builtKernel(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../../../bin/guest", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		vmtest.Missing(t, fmt.Sprintf("no guest kernel: %v (try: make guest)", err))
	}
	return path
}

// writeInitramfs writes a newc archive (Documentation/driver-api/early-userspace/buffer-format) with /init and
// /dev/console.
func writeInitramfs(t testing.TB, path, init string) {
	t.Helper()
	program, err := os.ReadFile(init)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	add := func(name string, mode, major, minor int, data []byte) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", b.Len()+1, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
		b.WriteString(name + "\x00")
		b.Write(make([]byte, -b.Len()&3))
		b.Write(data)
		b.Write(make([]byte, -b.Len()&3))
	}
	add("dev", 0o040755, 0, 0, nil)
	add("dev/console", 0o020600, 5, 1, nil)
	add("init", 0o100755, 0, 0, program)
	add("TRAILER!!!", 0, 0, 0, nil)
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// startGuest boots a VM and waits until its init is up. When the test fails it shows the console.
func startGuest(t testing.TB, change ...func(*vm.MachineSpec)) *guest {
	t.Helper()
	g := launchGuest(t, change...)
	g.awaitKey(link.KeyPhase)
	return g
}

func launchGuest(t testing.TB, change ...func(*vm.MachineSpec)) *guest {
	t.Helper()
	g := &guest{t: t, h: newHypervisor(t), spec: guestSpec(t)}
	for _, c := range change {
		c(&g.spec)
	}
	t.Cleanup(g.showConsole)
	m, err := g.h.Start(t.Context(), g.spec)
	if err != nil {
		t.Fatal(err)
	}
	g.Machine = m
	t.Cleanup(func() {
		if err := g.Kill(context.Background()); err != nil {
			t.Error(err)
		}
		g.Close()
	})
	return g
}

func (g *guest) showConsole() {
	if !g.t.Failed() {
		return
	}
	for _, path := range []string{filepath.Join(g.spec.HomeDir, hostapi.ConsoleFile), filepath.Join(g.spec.RunDir, "supervisor.log")} {
		b, _ := os.ReadFile(path)
		g.t.Logf("%s:\n%s", filepath.Base(path), b)
	}
}

// next returns the machine's next event.
func (g *guest) next() vm.Event {
	g.t.Helper()
	select {
	case e, ok := <-g.Events():
		if !ok {
			g.t.Fatal("the events ended")
		}
		return e
	case <-time.After(patience):
		g.t.Fatalf("nothing happened for %v", patience)
	}
	return vm.Event{}
}

func (g *guest) awaitKey(key string) string {
	g.t.Helper()
	for {
		e := g.next()
		if e.Exit != nil {
			g.t.Fatalf("the machine ended: %s", e.Exit.Reason)
		}
		if e.Guestinfo != nil && e.Guestinfo.Key == key {
			return e.Guestinfo.Value
		}
	}
}

func (g *guest) awaitExit() *vm.Exit {
	g.t.Helper()
	for {
		if e := g.next(); e.Exit != nil {
			if _, open := <-g.Events(); open {
				g.t.Error("an event after the exit")
			}
			return e.Exit
		}
	}
}

// halfCloser is what Machine.Dial returns, really.
type halfCloser interface {
	io.ReadWriteCloser
	CloseWrite() error
}

func (g *guest) dial(port uint32) halfCloser {
	g.t.Helper()
	c, err := g.Dial(g.t.Context(), port)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Close() })
	return c.(halfCloser)
}

// quit asks the guest to power itself off.
func (g *guest) quit() {
	g.t.Helper()
	g.dial(portQuit).Close()
}
