package qemu

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vmlog"
	"github.com/containervm/containervm/tether/link"
)

// frozenGuest boots a guest that freezes.
func frozenGuest(t testing.TB, change ...func(*vm.MachineSpec)) *guest {
	t.Helper()
	g := startGuest(t, append(change, freezes)...)
	g.awaitFrozen()
	return g
}

func (g *guest) awaitFrozen() {
	g.t.Helper()
	for {
		e := g.next()
		if e.Exit != nil {
			g.t.Fatalf("the machine ended: %s", e.Exit.Reason)
		}
		if e.Frozen {
			return
		}
	}
}

// child makes the n-th child of a fork point.
func (g *guest) child(tpl vm.ForkPoint, n int, change ...func(*vm.MachineSpec)) *guest {
	g.t.Helper()
	c, prestarted := g.prestartChild(tpl, n, change...)
	var err error
	if c.Machine, err = prestarted.Start(g.t.Context(), c.spec); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() {
		if err := c.Kill(context.Background()); err != nil {
			c.t.Error(err)
		}
		c.Close()
	})
	return c
}

// templateSpec is that of a machine that may freeze.
const templateSpec = `{"mode":"TEMPLATE"}`

// freezes has the test's guest freeze.
func freezes(s *vm.MachineSpec) {
	s.Cmdline += " test.freeze"
	s.Guestinfo[link.KeySpec] = templateSpec
}

// prestartChild makes the n-th child up to its start.
func (g *guest) prestartChild(tpl vm.ForkPoint, n int, change ...func(*vm.MachineSpec)) (*guest, vm.Prestarted) {
	g.t.Helper()
	dir := filepath.Join(filepath.Dir(g.spec.RunDir), fmt.Sprintf("child%d", n))
	spec := g.spec
	spec.RunDir, spec.HomeDir, spec.CID = dir+"/run", dir+"/home, too", g.spec.CID+uint32(n)
	spec.Guestinfo = map[string]string{"guestinfo.greeting": fmt.Sprint("I am ", n)}
	pool := dir + "/pool"
	for _, d := range []string{spec.RunDir, spec.HomeDir, pool} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			g.t.Fatal(err)
		}
	}
	for _, c := range change {
		c(&spec)
	}
	c := &guest{t: g.t, h: g.h, spec: spec}
	g.t.Cleanup(c.showConsole)
	prestarted, err := g.h.Prestart(g.t.Context(), tpl, vm.PrestartSpec{
		RunDir: pool, CPUs: spec.CPUs, MemoryMiB: spec.MemoryMiB, Machine: spec.Machine, CID: spec.CID,
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return c, prestarted
}

func (g *guest) template() *template {
	g.t.Helper()
	tpl, err := g.ForkPoint(g.t.Context())
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { tpl.Close() })
	return tpl.(*template)
}

func hashOf(t testing.TB, f *os.File) string {
	t.Helper()
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, 1<<40)); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sum.Sum(nil))
}

func TestForksOfATemplate(t *testing.T) {
	g := frozenGuest(t)
	tpl := g.template()
	before := hashOf(t, tpl.ram)
	t.Logf("%d MiB resident of %d", tpl.ResidentMiB(), tpl.MemoryMiB())
	if _, err := g.Dial(t.Context(), portEcho); err == nil || !strings.Contains(err.Error(), "frozen") {
		t.Errorf("dial of a frozen machine: %v", err)
	}
	var all sync.WaitGroup
	for n := 1; n <= 3; n++ {
		c := g.child(tpl, n)
		all.Go(func() {
			if phase := c.awaitKey(link.KeyPhase); phase != "child 1" {
				t.Errorf("child %d is in phase %q", n, phase)
			}
			if err := c.echo(randomBytes(1 << 20)); err != nil {
				t.Error(err)
			}
			if _, text := readRecords(t, c.log()); text != fmt.Sprint("I am ", n) {
				t.Errorf("log of child %d: %q", n, text)
			}
		})
	}
	all.Wait()
	if hashOf(t, tpl.ram) != before {
		t.Error("the template's memory has changed")
	}
	if _, err := tpl.ram.WriteAt([]byte("x"), 0); !errors.Is(err, syscall.EPERM) {
		t.Errorf("writing to the template's memory: %v", err)
	}
}

// TestMemory: a machine that was booted has all of its memory for itself, a frozen one shares it, and a child has little.
func TestMemory(t *testing.T) {
	g := startGuest(t, freezes)
	measure := func(g *guest) hostapi.Memory {
		t.Helper()
		m, err := g.Memory(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	booted := measure(g) // it may be frozen by now
	g.awaitFrozen()
	frozen := measure(g)
	c := g.child(g.template(), 1)
	c.awaitKey(link.KeyPhase)
	child := measure(c)
	t.Logf("booted %+v, frozen %+v, child %+v", booted, frozen, child)
	if booted.SharedKiB == 0 && (booted.GuestPrivateKiB == 0 || booted.OverheadKiB == 0) {
		t.Errorf("booted: %+v", booted)
	}
	if frozen.SharedKiB == 0 || frozen.GuestPrivateKiB != 0 || frozen.OverheadKiB != 0 {
		t.Errorf("frozen: %+v", frozen)
	}
	// A page of zeros that a child reads comes to be in the template's file, which then has more pages, and no other content.
	if child.SharedKiB < frozen.SharedKiB || child.SharedKiB > frozen.SharedKiB*11/10 || child.GuestPrivateKiB == 0 || child.GuestPrivateKiB > frozen.SharedKiB || child.OverheadKiB == 0 {
		t.Errorf("child: %+v", child)
	}
	if err := c.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m, err := c.Memory(t.Context()); err == nil {
		t.Errorf("of a machine that is gone: %+v", m)
	}
}

// log is what the machine's log holds now.
func (g *guest) log() io.Reader {
	g.t.Helper()
	l, _, err := g.Log(g.t.Context(), vmlog.Reader{})
	if err != nil {
		g.t.Fatal(err)
	}
	defer l.Close()
	b, err := io.ReadAll(l)
	if err != nil {
		g.t.Fatal(err)
	}
	return bytes.NewReader(b)
}

func TestFrozenMachineIsAdopted(t *testing.T) {
	g := frozenGuest(t)
	g.readopt()
	g.awaitFrozen()
	c := g.child(g.template(), 1)
	if err := g.Kill(t.Context()); err != nil { // children outlive their template
		t.Fatal(err)
	}
	if x := g.awaitExit(); x.Reason != "killed on request" {
		t.Errorf("exit %+v", x)
	}
	c.awaitKey(link.KeyPhase)
	if err := c.echo([]byte("still here")); err != nil {
		t.Error(err)
	}
}

func TestForkOfAForkOfAFork(t *testing.T) {
	g := frozenGuest(t)
	for n := 1; n <= 3; n++ {
		c := g.child(g.template(), n, func(s *vm.MachineSpec) {
			if n < 3 {
				s.Guestinfo["guestinfo.again"], s.Guestinfo[link.KeySpec] = "yes", templateSpec
			}
		})
		if phase := c.awaitKey(link.KeyPhase); phase != fmt.Sprint("child ", n) {
			t.Fatalf("in phase %q", phase)
		}
		if n < 3 {
			c.awaitFrozen()
		} else if err := c.echo(randomBytes(100_000)); err != nil {
			t.Error(err)
		}
		g = c
	}
}

func TestForksOfARunningMachine(t *testing.T) {
	g := startGuest(t, freezes)
	g.awaitFrozen()
	parent := g.child(g.template(), 1) // runs on private memory
	parent.awaitKey("guestinfo.settled")
	for n := 2; n <= 4; n++ {
		point, err := parent.Snapshot(t.Context(), vm.NewDisks{})
		if err != nil {
			t.Fatal(err)
		}
		if err := parent.echo(randomBytes(300_000)); err != nil {
			t.Errorf("the source after fork %d: %v", n, err)
		}
		c := parent.child(point, n) // dialled at once: that waits until the guest knows its new CID
		if err := c.echo(randomBytes(300_000)); err != nil {
			t.Errorf("child %d: %v", n, err)
		}
		point.Close()
	}
}

func TestPrestartedMachineIsClosed(t *testing.T) {
	g := frozenGuest(t)
	pool := filepath.Join(t.TempDir(), "pool")
	if err := os.Mkdir(pool, 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := g.h.Prestart(t.Context(), g.template(), vm.PrestartSpec{RunDir: pool, CPUs: 1, MemoryMiB: g.spec.MemoryMiB, CID: 99})
	if err != nil {
		t.Fatal(err)
	}
	if left := processesNaming(t, pool); strings.Count(left, "/fd") != 2 {
		t.Errorf("processes of a prestarted machine: %s", left)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if left := processesNaming(t, pool); left != "" {
		t.Errorf("processes left: %s", left)
	}
	if _, err := os.Stat(pool); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its directory: %v", err)
	}
}
