package qemu

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/tether/link"
)

const mebibyte = 1 << 20

// dataDisk makes a disk for a unit.
func dataDisk(t *testing.T, unit int, readOnly bool) vm.DataDisk {
	t.Helper()
	path := filepath.Join(t.TempDir(), "data.vmdk")
	qemuImg(t, "create", "-q", "-f", "qcow2", path, "64M")
	return vm.DataDisk{Unit: unit, Path: path, ReadOnly: readOnly}
}

// asker returns a function that asks the guest about its data disks (testdata/echoinit/disks.go).
func (g *guest) asker() func(format string, args ...any) string {
	g.t.Helper()
	c := g.dial(portAsk)
	answers := bufio.NewScanner(c)
	return func(format string, args ...any) string {
		g.t.Helper()
		if _, err := fmt.Fprintf(c, format+"\n", args...); err != nil {
			g.t.Fatal(err)
		}
		if !answers.Scan() {
			g.t.Fatalf("no answer to %q: %v", format, answers.Err())
		}
		return answers.Text()
	}
}

func wantAnswer(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("the guest says %q, want %q", got, want)
	}
}

// TestDataDisks: at boot, plugged in and taken out while the machine runs, read-only, and across an adoption.
func TestDataDisks(t *testing.T) {
	written, fixed, late := dataDisk(t, 1, false), dataDisk(t, 15, true), dataDisk(t, 3, false)
	qemuIO(t, fixed.Path, "write -P 0x41 0 512")
	g := startGuest(t, func(s *vm.MachineSpec) { s.DataDisks = []vm.DataDisk{written, fixed} })
	ask := g.asker()
	ask("await vol1")
	ask("await vol15")
	wantAnswer(t, ask("list"), "vol1 131072 rw,vol15 131072 ro")
	wantAnswer(t, ask("write vol1 4096 hello"), "ok")
	wantAnswer(t, ask("read vol15 0"), strings.Repeat("A", 16))
	if got := ask("write vol15 0 never"); !strings.HasPrefix(got, "error") {
		t.Errorf("a disk that is read-only is written to: %q", got)
	}
	g.readopt()
	must(t, g.PlugDisk(t.Context(), late))
	ask("await vol3")
	wantAnswer(t, ask("write vol3 0 late"), "ok")
	for name, d := range map[string]vm.DataDisk{
		"unit 0": {Unit: 0, Path: late.Path}, "the controller's": {Unit: 7, Path: late.Path}, "unit 16": {Unit: 16, Path: late.Path},
		"taken": {Unit: 3, Path: written.Path}, "missing": {Unit: 4, Path: late.Path + "x"},
	} {
		if err := g.PlugDisk(t.Context(), d); err == nil {
			t.Errorf("%s: a disk was plugged in", name)
		}
	}
	for range 3 {
		must(t, g.UnplugDisk(t.Context(), 3))
		ask("awaitGone vol3")
		if err := g.UnplugDisk(t.Context(), 3); err == nil {
			t.Error("a disk was taken out that is not there")
		}
		qemuIO(t, late.Path, "read -P 0x6c 0 1") // QEMU has closed it
		must(t, g.PlugDisk(t.Context(), late))
		ask("await vol3")
		wantAnswer(t, ask("read vol3 0"), "late")
	}
	must(t, g.Kill(t.Context()))
	qemuIO(t, written.Path, "read -P 0x68 4096 1")
}

// TestDataDisksOfChildren: a template has none, a child has, from its start or later.
func TestDataDisksOfChildren(t *testing.T) {
	g := frozenGuest(t)
	if err := g.PlugDisk(t.Context(), dataDisk(t, 1, false)); err == nil {
		t.Error("a disk was plugged into a machine that is frozen")
	}
	first, later := dataDisk(t, 2, false), dataDisk(t, 3, true)
	c := g.child(g.template(), 1, func(s *vm.MachineSpec) { s.DataDisks = []vm.DataDisk{first} })
	c.awaitKey(link.KeyPhase)
	ask := c.asker()
	ask("await vol2")
	must(t, c.PlugDisk(t.Context(), later))
	ask("await vol3")
	wantAnswer(t, ask("list"), "vol2 131072 rw,vol3 131072 ro")
	wantAnswer(t, ask("write vol2 0 first"), "ok")
	must(t, c.UnplugDisk(t.Context(), 2))
	ask("awaitGone vol2")
	qemuIO(t, first.Path, "read -P 0x66 0 1")
}

// delta makes a delta of a disk beside it.
func deltaOf(t *testing.T, d *vm.DataDisk, name string) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(d.Path), name)
	must(t, createDelta(path, d.Path))
	return path
}

// TestSnapshotWithDataDisks: the disks of a fork's children have what the fork point had, and what is written later is the writer's own.
func TestSnapshotWithDataDisks(t *testing.T) {
	one, two, fixed := dataDisk(t, 1, false), dataDisk(t, 2, false), dataDisk(t, 9, true)
	g := startGuest(t, func(s *vm.MachineSpec) {
		freezes(s)
		s.DataDisks = []vm.DataDisk{one, two, fixed}
	})
	g.awaitFrozen()
	spec := func(one, two string) func(*vm.MachineSpec) {
		return func(s *vm.MachineSpec) {
			s.DataDisks = []vm.DataDisk{{Unit: 1, Path: one}, {Unit: 2, Path: two}, fixed}
		}
	}
	tpl := g.template()
	source := g.child(tpl, 1, spec(deltaOf(t, &one, "s1"), deltaOf(t, &two, "s2")))
	source.awaitKey("guestinfo.settled")
	ask := source.asker()
	wantAnswer(t, ask("list"), "vol1 131072 rw,vol2 131072 rw,vol9 131072 ro")
	wantAnswer(t, ask("write vol1 0 before"), "ok")
	wantAnswer(t, ask("write vol2 0 before"), "ok")
	one.Path, two.Path = filepath.Join(filepath.Dir(one.Path), "s1"), filepath.Join(filepath.Dir(two.Path), "s2")
	for name, to := range map[string]vm.NewDisks{
		"none":       {},
		"one":        {Data: map[int]string{1: deltaOf(t, &one, "bad1")}},
		"missing":    {Data: map[int]string{1: deltaOf(t, &one, "bad2"), 2: "/none"}},
		"read-only":  {Data: map[int]string{1: deltaOf(t, &one, "bad3"), 2: deltaOf(t, &two, "bad3"), 9: deltaOf(t, &fixed, "bad3")}},
		"no disk":    {Data: map[int]string{1: deltaOf(t, &one, "bad4"), 2: deltaOf(t, &two, "bad4"), 5: deltaOf(t, &two, "bad5")}},
		"empty root": {Root: deltaOf(t, &one, "bad6"), Data: map[int]string{1: deltaOf(t, &one, "bad7"), 2: deltaOf(t, &two, "bad7")}},
	} {
		if _, err := source.Snapshot(t.Context(), to); err == nil {
			t.Errorf("%s: a snapshot was taken", name)
		}
		wantAnswer(t, ask("read vol1 0"), "before")
		wantAnswer(t, ask("write vol2 4096 on"), "ok")
	}
	point, err := source.Snapshot(t.Context(), vm.NewDisks{Data: map[int]string{1: deltaOf(t, &one, "n1"), 2: deltaOf(t, &two, "n2")}})
	must(t, err)
	defer point.Close()
	wantAnswer(t, ask("write vol1 0 source"), "ok")
	var children []*guest
	for n := 2; n <= 3; n++ {
		c := source.child(point, n, spec(deltaOf(t, &one, fmt.Sprint("c", n)), deltaOf(t, &two, fmt.Sprint("c", n))))
		asks := c.asker()
		wantAnswer(t, asks("list"), "vol1 131072 rw,vol2 131072 rw,vol9 131072 ro")
		wantAnswer(t, asks("read vol1 0"), "before")
		wantAnswer(t, asks("read vol2 4096"), "on")
		wantAnswer(t, asks(fmt.Sprintf("write vol1 0 child%d", n)), "ok")
		children = append(children, c)
	}
	wantAnswer(t, ask("read vol1 0"), "source")
	for i, c := range children {
		wantAnswer(t, c.asker()("read vol1 0"), fmt.Sprint("child", i+2))
		must(t, c.UnplugDisk(t.Context(), 9)) // a disk of the fork point, too
	}
	lacking, prestarted := source.prestartChild(point, 4, func(s *vm.MachineSpec) { s.DataDisks = s.DataDisks[:1] })
	if _, err := prestarted.Start(t.Context(), lacking.spec); err == nil || !strings.Contains(err.Error(), "unit 2") {
		t.Errorf("a child without disks of its fork point: %v", err)
	}
}

// TestSnapshotInPlace: a delta that takes its disk's name, as hosts have it, is not read in the disk's place: the first write to a cluster
// copies the rest of it from what the disk had, after each fork.
func TestSnapshotInPlace(t *testing.T) {
	disk := dataDisk(t, 1, false)
	g := startGuest(t, func(s *vm.MachineSpec) {
		freezes(s)
		s.DataDisks = []vm.DataDisk{disk}
	})
	g.awaitFrozen()
	must(t, os.Rename(deltaOf(t, &disk, "of-source"), filepath.Join(filepath.Dir(disk.Path), "source")))
	disk.Path = filepath.Join(filepath.Dir(disk.Path), "source")
	source := g.child(g.template(), 1, func(s *vm.MachineSpec) { s.DataDisks = []vm.DataDisk{disk} })
	source.awaitKey("guestinfo.settled")
	ask := source.asker()
	wantAnswer(t, ask("write vol1 0 first"), "ok")
	wantAnswer(t, ask("write vol1 8192 kept"), "ok")
	wantAnswer(t, ask("write vol1 131072 kept"), "ok")
	for n := 1; n <= 2; n++ {
		kept := vm.DataDisk{Path: fmt.Sprint(disk.Path, n)}
		must(t, os.Link(disk.Path, kept.Path))
		must(t, os.Rename(deltaOf(t, &kept, "new"), disk.Path))
		point, err := source.Snapshot(t.Context(), vm.NewDisks{Data: map[int]string{1: disk.Path}})
		must(t, err)
		point.Close()
		wantAnswer(t, ask("write vol1 0 again"), "ok")
	}
	wantAnswer(t, ask("write vol1 139264 late"), "ok") // copies what lies two forks below
	must(t, source.Kill(t.Context()))
	qemuIO(t, disk.Path, "read -P 0x61 0 1")
	qemuIO(t, disk.Path, "read -P 0x6b 8192 1")
	qemuIO(t, disk.Path, "read -P 0x6b 131072 1")
}

// TestFullHostDisk: a write that the host has no room for fails in the guest, which goes on.
func TestFullHostDisk(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/image", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, os.Truncate(dir+"/image", 16*mebibyte))
	command(t, "/sbin/mke2fs", "-q", "-F", dir+"/image")
	must(t, os.Mkdir(dir+"/small", 0o700))
	command(t, "mount", "-o", "loop", dir+"/image", dir+"/small")
	t.Cleanup(func() { command(t, "umount", "-l", dir+"/small") })
	disk := vm.DataDisk{Unit: 1, Path: dir + "/small/data.vmdk"}
	qemuImg(t, "create", "-q", "-f", "qcow2", disk.Path, "64M")
	g := startGuest(t, func(s *vm.MachineSpec) { s.DataDisks = []vm.DataDisk{disk} })
	ask := g.asker()
	ask("await vol1")
	wantAnswer(t, ask("write vol1 0 kept"), "ok")
	if got := ask("fill vol1"); !strings.HasSuffix(got, "error") { // what the kernel says of pages that it could not write back
		t.Errorf("a full disk says %q", got)
	}
	if !strings.Contains(g.console(), "critical space allocation error, dev sda") {
		t.Error("the guest's kernel was not told why")
	}
	wantAnswer(t, ask("read vol1 1048576"), "\x02")
	if err := g.echo(randomBytes(100_000)); err != nil {
		t.Error(err)
	}
}
