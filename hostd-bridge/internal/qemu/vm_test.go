package qemu

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vmlog"
	"github.com/containervm/containervm/tether/link"
)

func TestLifeOfAMachine(t *testing.T) {
	g := startGuest(t)
	follower, _, err := g.Log(t.Context(), vmlog.Reader{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	g.quit()
	x := g.awaitExit()
	if !x.Orderly || x.Guestinfo[link.KeyPhase] != "up" || x.Run != testRun {
		t.Errorf("exit %+v", x)
	}
	if streams, text := readRecords(t, follower); streams != "run stdout " || text != "hello" {
		t.Errorf("log: %s: %q", streams, text)
	}
	m, exit, err := g.h.Adopt(t.Context(), g.spec.Ref, g.spec.RunDir)
	if err != nil || m != nil || exit.Reason != x.Reason || !exit.At.Equal(x.At) || exit.Run != x.Run {
		t.Errorf("adopted %v, %+v, %v", m, exit, err)
	}
	if left := processesNaming(t, g.spec.RunDir); left != "" {
		t.Errorf("processes left: %s", left)
	}
}

// readRecords reads a log whose runs all have the number that guestSpec gives. text is what the guests have written.
func readRecords(t *testing.T, r io.Reader) (streams, text string) {
	t.Helper()
	records := link.NewRecordReader(r)
	for {
		rec, err := records.Next()
		if err == io.EOF {
			return streams, text
		}
		if err != nil {
			t.Fatal(err)
		}
		streams += rec.Stream.String() + " "
		if rec.Stream == link.StreamRun {
			if m, err := hostapi.ParseMarker(string(rec.Payload)); err != nil || m.Run != testRun {
				t.Errorf("run marker %q: %v", rec.Payload, err)
			}
			continue
		}
		text += string(rec.Payload)
	}
}

// processesNaming lists the other processes that have a file of a directory open, as all of a machine have that of its lock.
func processesNaming(t testing.TB, dir string) (found string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		p := filepath.Dir(f)
		if path, err := os.Readlink(f); err == nil && strings.HasPrefix(path, dir) && !strings.Contains(found, p) && p != fmt.Sprintf("/proc/%d/fd", os.Getpid()) {
			found += p + " "
		}
	}
	return found
}

// machinePIDs finds the processes of a machine: the supervisor, and QEMU, its child.
func machinePIDs(t testing.TB, runDir string) (supervisor, qemu int) {
	t.Helper()
	for p := range strings.FieldsSeq(processesNaming(t, runDir)) {
		pid, err := strconv.Atoi(strings.Split(p, "/")[2])
		if err != nil {
			t.Fatal(err)
		}
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(string(name), "qemu") {
			qemu = pid
		} else {
			supervisor = pid
		}
	}
	if supervisor == 0 || qemu == 0 {
		t.Fatalf("supervisor %d, QEMU %d", supervisor, qemu)
	}
	return supervisor, qemu
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// echo sends data to the guest's echo service and compares what comes back.
func (g *guest) echo(data []byte) error {
	c, err := g.Dial(g.t.Context(), portEcho)
	if err != nil {
		return err
	}
	defer c.Close()
	go func() {
		c.Write(data)
		c.(halfCloser).CloseWrite()
	}()
	sum := sha256.New()
	n, err := io.Copy(sum, c)
	if err != nil {
		return err
	}
	if want := sha256.Sum256(data); n != int64(len(data)) || !bytes.Equal(sum.Sum(nil), want[:]) {
		return fmt.Errorf("echo of %d bytes differs: got %d", len(data), n)
	}
	return nil
}

func TestVsockOfAMachine(t *testing.T) {
	g := startGuest(t)
	t.Run("64 MiB each way", func(t *testing.T) {
		if err := g.echo(randomBytes(64 << 20)); err != nil {
			t.Error(err)
		}
	})
	t.Run("many connections", func(t *testing.T) {
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if err := g.echo(randomBytes(50_000)); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	})
	t.Run("paused and resumed under load", func(t *testing.T) {
		done := make(chan error, 1)
		go func() { done <- g.echo(randomBytes(16 << 20)) }()
		cycles := 0
		for {
			select {
			case err := <-done:
				if err != nil {
					t.Error(err)
				}
				t.Logf("%d cycles", cycles)
				return
			default:
			}
			if err := g.Pause(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := g.Resume(t.Context()); err != nil {
				t.Fatal(err)
			}
			cycles++
		}
	})
	t.Run("closed port", func(t *testing.T) {
		if _, err := g.Dial(t.Context(), 9999); err == nil || !strings.Contains(err.Error(), syscall.ECONNREFUSED.Error()) {
			t.Errorf("dial: %v", err)
		}
	})
}

func TestDiskOfARunningMachine(t *testing.T) {
	g := startGuest(t)
	base, delta := filepath.Join(g.spec.HomeDir, "base.qcow2"), filepath.Join(g.spec.HomeDir, "delta.qcow2")
	mark := randomBytes(4096)
	makeDisk(t, base, mark)
	if err := g.h.CreateDisk(t.Context(), delta, base); err != nil {
		t.Fatal(err)
	}
	empty := make([]byte, 4096)
	for range 3 {
		if got := g.diskStart(); !bytes.Equal(got, empty) {
			t.Fatalf("empty slot reads %x...", got[:16])
		}
		if err := g.AttachDisk(t.Context(), delta, base); err != nil {
			t.Fatal(err)
		}
		if got := g.diskStart(); !bytes.Equal(got, mark) {
			t.Fatalf("disk reads %x...", got[:16])
		}
		if err := g.AttachDisk(t.Context(), delta, base); err == nil {
			t.Fatal("a second disk went into the slot")
		}
		if err := g.DetachDisk(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// What the header says when QEMU reads it is of no account: the files are those that were opened.
	image, err := g.h.image(delta, base, false)
	if err != nil {
		t.Fatal(err)
	}
	rename(t, delta, "base.qcow2", "none.qcow2")
	if err := g.Machine.(*machine).Attach(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	image.Close()
	if got := g.diskStart(); !bytes.Equal(got, mark) {
		t.Fatalf("disk with another header reads %x...", got[:16])
	}
	if err := g.DetachDisk(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := g.AttachDisk(t.Context(), filepath.Join(g.spec.HomeDir, "none.qcow2"), ""); err == nil {
		t.Error("a missing disk was attached")
	}
	if err := g.DetachDisk(t.Context()); err == nil {
		t.Error("an empty slot was emptied")
	}
}

func (g *guest) diskStart() []byte {
	g.t.Helper()
	b, err := io.ReadAll(g.dial(portDisk))
	if err != nil {
		g.t.Fatal(err)
	}
	return b
}

func TestResetOfAMachine(t *testing.T) {
	g := startGuest(t)
	open := g.dial(portEcho)
	if err := g.SetGuestinfo(t.Context(), map[string]string{link.KeyPhase: ""}); err != nil {
		t.Fatal(err)
	}
	if err := g.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := open.Read(make([]byte, 1)); err == nil {
		t.Error("a connection survived the reset")
	}
	g.awaitKey(link.KeyPhase)
	if err := g.echo([]byte("again")); err != nil {
		t.Error(err)
	}
	g.quit()
	if x := g.awaitExit(); !x.Orderly {
		t.Errorf("exit %+v", x)
	}
}

// rename has a disk's header name another parent, of a name that is as long.
func rename(t *testing.T, path, from, to string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte(from)) || len(from) != len(to) {
		t.Fatalf("%s does not name %s", path, from)
	}
	if err := os.WriteFile(path, bytes.Replace(b, []byte(from), []byte(to), 1), 0o600); err != nil {
		t.Fatal(err)
	}
}

// readopt closes a machine that runs and adopts it, as one daemon does after another.
func (g *guest) readopt() {
	g.t.Helper()
	if err := g.Close(); err != nil {
		g.t.Fatal(err)
	}
	m, exit, err := g.h.Adopt(g.t.Context(), g.spec.Ref, g.spec.RunDir)
	if err != nil || exit != nil {
		g.t.Fatalf("adopt: %+v, %v", exit, err)
	}
	g.Machine = m
}

func TestAdoption(t *testing.T) {
	g := startGuest(t)
	g.readopt()
	if phase := g.awaitKey(link.KeyPhase); phase != "up" {
		t.Errorf("phase %q", phase)
	}
	g.quit()
	if x := g.awaitExit(); !x.Orderly {
		t.Errorf("exit %+v", x)
	}
}

func TestKilledSupervisorEndsTheMachine(t *testing.T) {
	g := startGuest(t)
	supervisor, _ := machinePIDs(t, g.spec.RunDir)
	syscall.Kill(supervisor, syscall.SIGKILL)
	if x := g.awaitExit(); x.Orderly || !strings.Contains(x.Reason, "supervisor was killed") {
		t.Errorf("exit %+v", x)
	}
	if left := processesNaming(t, g.spec.RunDir); left != "" {
		t.Errorf("processes left: %s", left)
	}
}

func TestKilledQEMU(t *testing.T) {
	g := startGuest(t)
	_, qemu := machinePIDs(t, g.spec.RunDir)
	syscall.Kill(qemu, syscall.SIGKILL)
	if x := g.awaitExit(); x.Orderly || !strings.Contains(x.Reason, "signal 9") {
		t.Errorf("exit %+v", x)
	}
}

func TestGuestPanic(t *testing.T) {
	g := launchGuest(t, func(s *vm.MachineSpec) { s.Cmdline += " test.panic" })
	if x := g.awaitExit(); x.Orderly || !strings.HasPrefix(x.Reason, "guest kernel panic: ") {
		t.Errorf("exit %+v", x)
	}
}

func TestQEMUThatDoesNotStart(t *testing.T) {
	h, spec := newHypervisor(t), guestSpec(t)
	spec.RootDisk = spec.Kernel
	if _, err := h.Start(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "not a qcow2 image") {
		t.Errorf("start: %v", err)
	}
	spec.RootDisk, spec.CPUs = "", 100_000
	if _, err := h.Start(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "Invalid SMP CPUs") {
		t.Errorf("start: %v", err)
	}
	if left := processesNaming(t, spec.RunDir); left != "" {
		t.Errorf("processes left: %s", left)
	}
}
