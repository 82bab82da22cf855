package vmhost_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmtest"
	"github.com/containervm/containervm/tether/link"
)

// running makes a VM with a disk of its own that runs.
func (h *host) running(name string) string {
	h.t.Helper()
	ref := h.create(config(name), &vm.DiskChange{Create: true, Path: name + "/root.vmdk"})
	h.must(h.PowerOn(h.t.Context(), ref))
	return ref
}

// chain returns the files that the disk at rel consists of, down to the blank one.
func (h *host) chain(rel string) (files []string) {
	h.t.Helper()
	for rel != "blank.vmdk" {
		if len(files) > 20 || !h.exists(rel) {
			h.t.Fatalf("the chain %v ends in %q", files, rel)
		}
		files = append(files, rel)
		parent, err := h.hv.DiskParent(h.t.Context(), h.store.HostPath(rel))
		h.must(err)
		rel = h.store.Rel(parent)
	}
	return files
}

func (h *host) wantChain(ref string, want ...string) {
	h.t.Helper()
	v := h.vm(ref)
	files := h.chain(v.Disk.Path)
	if fmt.Sprint(files) != fmt.Sprint(want) {
		h.t.Errorf("the disk of %s is %v, want %v", v.Name, files, want)
	}
	if len(files) > 1 && v.Disk.Parent != files[1] {
		h.t.Errorf("the disk of %s is a delta of %s in the inventory, of %s in truth", v.Name, v.Disk.Parent, files[1])
	}
}

func (h *host) end(refs ...string) {
	h.t.Helper()
	for _, ref := range refs {
		h.must(h.PowerOff(h.t.Context(), ref))
		h.must(h.Destroy(h.t.Context(), ref))
	}
}

func TestForkOfARunningVM(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	ctx := t.Context()
	source := h.running("source")
	inode := func(rel string) os.FileInfo {
		info, err := h.store.Stat(rel)
		h.must(err)
		return info
	}
	before := inode("source/root.vmdk")
	record := link.AppendRecord(nil, link.Record{Stream: link.StreamStdout, Payload: []byte("said before")})
	h.must(h.hv.Machine(source).Log(append(record, record[:5]...)))
	child := h.clone(source, "child")
	h.wantChain(source, "source/root.vmdk", "cvm-forks/"+source+"-1.vmdk")
	h.wantChain(child, "child/root.vmdk", "cvm-forks/"+source+"-1.vmdk")
	if !os.SameFile(before, inode("cvm-forks/"+source+"-1.vmdk")) {
		t.Error("the kept disk is not the file that the machine had open")
	}
	if got := h.hv.Machine(source).Disk(); got != h.store.HostPath("source/root.vmdk") || h.vm(source).Power != vm.PoweredOn {
		t.Errorf("the source goes on with the disk %q", got)
	}
	if log, err := os.ReadFile(h.store.HostPath("child/stdio.log")); err != nil || string(log) != string(record) {
		t.Errorf("the child's log is %q, %v", log, err)
	}
	// a fork of a fork of a fork, and a second one of the source
	second := h.clone(source, "second")
	grandchild := h.clone(child, "grandchild")
	last := h.clone(grandchild, "last")
	h.wantChain(last, "last/root.vmdk", "cvm-forks/"+grandchild+"-1.vmdk", "cvm-forks/"+child+"-1.vmdk", "cvm-forks/"+source+"-1.vmdk")
	var inUse *vm.DeviceError
	if err := h.Reconfigure(ctx, last, vm.Change{Disk: &vm.DiskChange{Remove: true}}); !errors.As(err, &inUse) {
		t.Errorf("a disk without its parents was kept: %v", err)
	}
	if h.UserOf("cvm-forks") == "" || h.UserOf("cvm-forks/"+source+"-1.vmdk") == "" || h.UserOf("elsewhere") != "" {
		t.Error("kept disks are free to be removed")
	}
	h.restart()
	h.wantChain(second, "second/root.vmdk", "cvm-forks/"+source+"-2.vmdk", "cvm-forks/"+source+"-1.vmdk")
	refs := []string{source, child, second, grandchild, last}
	rand.Shuffle(len(refs), func(a, b int) { refs[a], refs[b] = refs[b], refs[a] })
	for n, ref := range refs {
		h.end(ref)
		for _, left := range refs[n+1:] {
			h.chain(h.vm(left).Disk.Path)
		}
	}
	h.nothingLeft()
}

// A frozen VM's disk is kept once for all its children; when the VM is powered off and on it has one of its own.
func TestForkOfAFrozenDisk(t *testing.T) {
	h := newHost(t, freezer)
	source := h.template("source", &vm.DiskChange{Create: true, Path: "source/root.vmdk"})
	a, b := h.clone(source, "a"), h.clone(source, "b")
	kept := "cvm-forks/" + source + "-1.vmdk"
	h.wantChain(a, "a/root.vmdk", kept)
	h.wantChain(b, "b/root.vmdk", kept)
	h.restart()
	c := h.clone(source, "c")
	h.wantChain(c, "c/root.vmdk", kept)
	h.must(h.PowerOff(t.Context(), source))
	h.must(h.PowerOn(t.Context(), source))
	h.wait(source, frozen)
	if got := h.hv.Machine(source).Spec.RootDisk; got != h.store.HostPath("source/root.vmdk") {
		t.Errorf("it runs from %s, which is not its own", got)
	}
	d := h.clone(source, "d")
	h.wantChain(d, "d/root.vmdk", "cvm-forks/"+source+"-2.vmdk", kept)
	h.end(source, a, b, c, d)
	h.nothingLeft()
}

// Disks that would not survive being kept elsewhere are refused, and nothing is changed.
func TestDisksThatCannotBeForked(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	h.write("layers/base.vmdk")
	h.write("given/root.vmdk")
	for name, change := range map[string]vm.DiskChange{
		"given":  {Path: "given/root.vmdk"},
		"deep":   {Create: true, Path: "deep/down/root.vmdk", Parent: "layers/base.vmdk"},
		"beside": {Create: true, Path: "layers/root.vmdk", Parent: "layers/base.vmdk"},
	} {
		ref := h.create(config("of "+name), &change)
		h.must(h.PowerOn(t.Context(), ref))
		before := *h.vm(ref).Disk
		var device *vm.DeviceError
		if _, err := h.InstantClone(t.Context(), ref, vm.CloneSpec{Name: "x"}); !errors.As(err, &device) {
			t.Errorf("%s: %v", name, err)
		}
		if after := h.vm(ref).Disk; *after != before || len(list(t, h.store.HostPath("cvm-forks"))) != 0 {
			t.Errorf("%s: the disk is %+v, kept are %v", name, after, list(t, h.store.HostPath("cvm-forks")))
		}
	}
}

// Whatever fails, no child is left, the source goes on, and its disk is whole.
func TestForkFails(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	source := h.running("source")
	broken := errors.New("broken")
	for _, stage := range []vmtest.Stage{vmtest.Snapshot, vmtest.Prestart, vmtest.Fork} {
		h.hv.On(stage, func() error { return broken })
		if _, err := h.InstantClone(t.Context(), source, vm.CloneSpec{Name: "child"}); !errors.Is(err, broken) {
			t.Errorf("%s: %v", stage, err)
		}
		h.hv.On(stage, nil)
		if len(h.List()) != 1 || h.exists("child") || len(list(t, filepath.Join(h.dir, "run"))) != 1 || h.hv.Open() != 0 {
			t.Errorf("%s: something is left of the child", stage)
		}
		h.chain("source/root.vmdk")
		if m := h.hv.Machine(source); m.Exit() != nil || m.Disk() != h.store.HostPath("source/root.vmdk") {
			t.Errorf("%s: the source does not go on", stage)
		}
	}
	child := h.clone(source, "child")
	h.chain("child/root.vmdk")
	h.end(source, child)
	h.nothingLeft()
}

// A daemon that is killed while it keeps a disk leaves a disk with the same content at its path, whatever the step; the next
// one knows what it is a delta of.
func TestKilledWhileKeeping(t *testing.T) {
	for _, step := range []string{"linked", "made", "renamed"} {
		t.Run(step, func(t *testing.T) {
			h := newHost(t, vmtest.Idle)
			source := h.running("source")
			h.must(h.Close())
			kept := h.store.HostPath("cvm-forks/" + source + "-1.vmdk")
			disk := h.store.HostPath("source/root.vmdk")
			h.must(os.MkdirAll(filepath.Dir(kept), 0o700))
			h.must(os.Link(disk, kept))
			if step != "linked" {
				h.must(h.hv.CreateDisk(t.Context(), disk+".delta", kept))
			}
			if step == "renamed" {
				h.must(os.Rename(disk+".delta", disk))
			}
			h.must(errors.Join(h.journal.Close(), h.store.Close()))
			h.open()
			want := []string{"source/root.vmdk"}
			if step == "renamed" {
				want = append(want, "cvm-forks/"+source+"-1.vmdk")
			}
			h.wantChain(source, want...)
			if h.exists("source/root.vmdk.delta") || h.exists("cvm-forks/"+source+"-1.vmdk") != (step == "renamed") {
				t.Error("something is left of the fork")
			}
			h.end(source)
			h.nothingLeft()
		})
	}
}

// What a child inherits of a long log begins and ends between records, whatever is in them.
func TestLongLogIsInherited(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	source := h.running("source")
	var log []byte
	for n := 0; len(log) < 9<<20; n++ {
		payload := make([]byte, rand.IntN(5000))
		if n%3 == 0 { // looks like records
			payload = link.AppendRecord(nil, link.Record{Stream: link.StreamStderr, Payload: payload})
		}
		log = link.AppendRecord(log, link.Record{Stream: link.StreamStdout, Payload: payload})
	}
	torn := append(log[:len(log):len(log)], log[:7]...)
	for name, data := range map[string][]byte{"whole": log, "torn": torn} {
		h.must(os.WriteFile(h.store.HostPath("source/stdio.log"), data, 0o600))
		h.clone(source, name)
		got, err := os.ReadFile(h.store.HostPath(name + "/stdio.log"))
		h.must(err)
		if len(got) > 4<<20 || len(got) < 4<<20-6000 {
			t.Errorf("%s: %d bytes are inherited", name, len(got))
		}
		if string(got) != string(log[len(log)-len(got):]) {
			t.Errorf("%s: what is inherited is not the end of the log", name)
		}
		f, err := os.Open(h.store.HostPath(name + "/stdio.log"))
		h.must(err)
		if good, err := link.ScanRecords(f); err != nil || good != int64(len(got)) {
			t.Errorf("%s: records up to %d of %d: %v", name, good, len(got), err)
		}
		h.must(f.Close())
	}
}

// A disk is there before the guest is told, and gone again when it cannot be told.
func TestDiskComesBeforeGuestinfo(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	ref := h.create(config("one"), nil)
	h.must(h.PowerOn(t.Context(), ref))
	m := h.hv.Machine(ref)
	broken := errors.New("broken")
	change := vm.Change{
		Disk:  &vm.DiskChange{Create: true, Path: "one/root.vmdk"},
		Extra: map[string]string{"guestinfo.a": "2", "guestinfo.spec": "x"},
	}
	h.hv.On(vmtest.Tell, func() error {
		if m.Disk() == "" {
			t.Error("the guest is told of a disk that is not there")
		}
		h.hv.On(vmtest.Tell, nil)
		return broken
	})
	if err := h.Reconfigure(t.Context(), ref, change); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if v := h.vm(ref); v.Disk != nil || v.InFlight != nil || v.Extra["guestinfo.spec"] != "" || h.exists("one/root.vmdk") || m.Disk() != "" {
		t.Errorf("something is left of the change: %+v", v)
	}
	if m.Get("guestinfo.a") != "1" || m.Get("guestinfo.spec") != "" {
		t.Error("the guest reads what was taken back")
	}
	h.hv.On(vmtest.Tell, func() error {
		if m.Disk() == "" {
			t.Error("the guest is told of a disk that is not there")
		}
		return nil
	})
	h.must(h.Reconfigure(t.Context(), ref, change))
	if m.Get("guestinfo.spec") != "x" || m.Disk() == "" || h.vm(ref).Disk == nil {
		t.Error("the change is not done")
	}
}
