package qemu

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vmlog"
	"github.com/containervm/containervm/internal/vmtest"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// tetherSpec has the VM run script on a disk of its own that holds busybox, under the real tether.
func tetherSpec(script string) *tetherv1.Spec {
	return &tetherv1.Spec{
		Id: strings.Repeat("5", 64), Hostname: "box",
		Interfaces: []*tetherv1.Interface{{Addresses: []string{"10.0.2.15/24"}}},
		Process:    &tetherv1.Process{Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin"}},
	}
}

// launchTether boots the real tether with spec, nil for none, and the disk given, "" for none.
func launchTether(t *testing.T, spec *tetherv1.Spec, disk string, change ...func(*vm.MachineSpec)) *guest {
	t.Helper()
	return launchGuest(t, append([]func(*vm.MachineSpec){func(s *vm.MachineSpec) {
		s.Initrd, s.RootDisk = tetherInitrd(t), disk
		if spec == nil {
			return
		}
		text, err := link.EncodeSpec(spec)
		if err != nil {
			t.Fatal(err)
		}
		s.Guestinfo[link.KeySpec] = text
	}}, change...)...)
}

// tetherInitrd finds the initramfs that make guest built; CVM_TEST_TETHER chooses another.
func tetherInitrd(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("CVM_TEST_TETHER"); path != "" {
		return path
	}
	return builtKernel(t, "initramfs.cpio")
}

// busyboxDisk makes a disk with busybox and what more does to its root directory.
func busyboxDisk(t *testing.T, more ...func(root string)) string {
	t.Helper()
	return makeFileSystem(t, append([]func(string){func(root string) { installBusybox(t, root) }}, more...)...)
}

func installBusybox(t *testing.T, root string) {
	t.Helper()
	for _, d := range []string{"bin", "etc", "tmp"} {
		must(t, os.Mkdir(filepath.Join(root, d), 0o755))
	}
	program, err := exec.LookPath("busybox")
	if err != nil {
		vmtest.Missing(t, fmt.Sprintf("no static busybox: %v; try: apt-get install busybox-static", err))
	}
	command(t, "cp", program, filepath.Join(root, "bin/busybox"))
	for applet := range strings.FieldsSeq(command(t, program, "--list")) {
		if applet != "busybox" {
			must(t, os.Symlink("busybox", filepath.Join(root, "bin", applet)))
		}
	}
}

// makeFileSystem makes a disk with what fill puts into its root directory; debugfs then does the requests.
func makeFileSystem(t *testing.T, fill ...func(root string)) string {
	t.Helper()
	return damagedFileSystem(t, "", fill...)
}

// damagedFileSystem is makeFileSystem with a request to debugfs at the end.
func damagedFileSystem(t *testing.T, request string, fill ...func(root string)) string {
	t.Helper()
	dir := t.TempDir()
	root, raw, disk := filepath.Join(dir, "root"), filepath.Join(dir, "raw"), filepath.Join(dir, "disk.vmdk")
	must(t, os.Mkdir(root, 0o755))
	for _, f := range fill {
		f(root)
	}
	must(t, os.WriteFile(raw, nil, 0o600))
	must(t, os.Truncate(raw, 256<<20))
	command(t, "/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-E", "root_owner=0:0,nodiscard", "-d", root, raw)
	if request != "" {
		command(t, "/sbin/debugfs", "-w", "-R", request, raw)
	}
	qemuImg(t, "convert", "-f", "raw", "-O", "qcow2", raw, disk)
	return disk
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// command runs a program of this machine that the test cannot do without.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		vmtest.Missing(t, fmt.Sprintf("no %s: %v", name, err))
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}

// awaitStatus waits until the tether reports the state.
func (g *guest) awaitStatus(state tetherv1.State) *tetherv1.Status {
	g.t.Helper()
	for {
		st, err := link.DecodeStatus(g.awaitKey(link.KeyStatus))
		if err != nil {
			g.t.Fatal(err)
		}
		if st.State == state {
			return st
		}
		if st.State > state {
			g.t.Fatalf("the status is %v, want %v", st, state)
		}
	}
}

// ending waits for the machine's end and returns the status and the log that it left.
func (g *guest) ending() (*tetherv1.Status, map[link.RecordStream]string) {
	g.t.Helper()
	x := g.awaitExit()
	if !x.Orderly {
		g.t.Errorf("the machine ended badly: %s", x.Reason)
	}
	st := &tetherv1.Status{}
	if text := x.Guestinfo[link.KeyStatus]; text != "" {
		var err error
		if st, err = link.DecodeStatus(text); err != nil {
			g.t.Fatal(err)
		}
	}
	var log bytes.Buffer
	if err := vmlog.CopyFiles(&log, g.spec.HomeDir, 0, false); err != nil {
		g.t.Fatal(err)
	}
	return st, readLog(g.t, &log)
}

func readLog(t testing.TB, r io.Reader) map[link.RecordStream]string {
	t.Helper()
	text := map[link.RecordStream]string{}
	for records := link.NewRecordReader(r); ; {
		rec, err := records.Next()
		if err == io.EOF {
			return text
		}
		if err != nil {
			t.Fatal(err)
		}
		text[rec.Stream] += string(rec.Payload)
	}
}

func (g *guest) console() string {
	g.t.Helper()
	text, err := os.ReadFile(filepath.Join(g.spec.HomeDir, "console.log"))
	if err != nil {
		g.t.Fatal(err)
	}
	return string(text)
}

// client opens a link session.
func (g *guest) client() *link.Client {
	g.t.Helper()
	conn, err := g.Dial(g.t.Context(), link.PortLink)
	if err != nil {
		g.t.Fatal(err)
	}
	c, err := link.NewClient(g.t.Context(), conn)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Close() })
	return c
}

// awaitOutput waits until the main process's output begins with want.
func (g *guest) awaitOutput(c *link.Client, want string) {
	g.t.Helper()
	out, err := c.OpenOutput(g.t.Context(), link.MainSession, link.StreamStdout, 0)
	must(g.t, err)
	defer out.Close()
	expect(g.t, out, want)
}

// begin starts a process beside the main one.
func begin(t testing.TB, c *link.Client, id string, p *tetherv1.Process) {
	t.Helper()
	res, err := c.Tether().Exec(t.Context(), &tetherv1.ExecRequest{Session: id, Process: p, AttachStdout: true})
	if err != nil || res.Failure != nil {
		t.Errorf("%v: %v, %v", p.Args, err, res.GetFailure())
	}
}

// finish returns a process's output and its end.
func finish(t testing.TB, c *link.Client, id string) (string, *tetherv1.Exit) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := c.OpenOutput(ctx, id, link.StreamStdout, 0)
	if err != nil {
		t.Error(err)
		return "", nil
	}
	defer out.Close()
	text, err := io.ReadAll(out)
	if err != nil {
		t.Error(err)
	}
	wait, err := c.Tether().Wait(ctx, &tetherv1.WaitRequest{Session: id})
	if err != nil {
		t.Error(err)
	}
	return string(text), wait.GetExit()
}

// execute is begin and finish.
func execute(t testing.TB, c *link.Client, id string, p *tetherv1.Process) (string, *tetherv1.Exit) {
	t.Helper()
	begin(t, c, id, p)
	return finish(t, c, id)
}

func shell(script string) *tetherv1.Process {
	return &tetherv1.Process{Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin"}}
}

// TestBootTether boots what CVM_TEST_INITRD names, tells it CVM_TEST_SPEC on a delta of CVM_TEST_DISK, and shows all
// that happens: a tool for work on the tether.
func TestBootTether(t *testing.T) {
	if os.Getenv("CVM_TEST_SPEC") == "" {
		t.Skip("shows a boot by hand (try: CVM_TEST_SPEC='{...}' CVM_TEST_DISK=... CVM_TEST_INITRD=...)")
	}
	start := time.Now()
	g := launchGuest(t, func(s *vm.MachineSpec) {
		s.Guestinfo[link.KeySpec] = os.Getenv("CVM_TEST_SPEC")
		if disk := os.Getenv("CVM_TEST_DISK"); disk != "" {
			s.RootDisk = filepath.Join(s.HomeDir, "root.vmdk")
			if err := createDelta(s.RootDisk, disk); err != nil {
				t.Fatal(err)
			}
		}
	})
	for e := g.next(); ; e = g.next() {
		t.Logf("%v %+v", time.Since(start), e.Guestinfo)
		if e.Exit != nil {
			t.Logf("%+v", *e.Exit)
			break
		}
	}
	text, err := os.ReadFile(filepath.Join(g.spec.HomeDir, "stdio.log"))
	t.Logf("stdio.log: %q, %v", text, err)
}
