package vmhost_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmtest"
)

// A daemon that comes back finds the machines again, with all that the guests said in between.
func TestMachinesAreAdopted(t *testing.T) {
	go1, go2 := make(chan struct{}), make(chan struct{})
	h := newHost(t, func(ctx context.Context, m *vmtest.Machine) {
		m.Set("guestinfo.before", "1")
		<-go1
		m.Set("guestinfo.between", "2")
		<-go2
	})
	ref := h.create(config("one"), nil)
	h.must(h.PowerOn(t.Context(), ref))
	started := h.vm(ref).Started
	h.restart()
	close(go1)
	v := h.wait(ref, func(v *vm.VM) bool { return v.Guest["guestinfo.between"] == "2" })
	if v.Power != vm.PoweredOn || v.Guest["guestinfo.before"] != "1" || !v.Started.Equal(started) || v.Runs != 1 {
		t.Errorf("adopted VM: %+v", v)
	}
	close(go2)
	if v := h.wait(ref, off); !v.Exit.Orderly {
		t.Errorf("exit %+v", v.Exit)
	}
}

// A machine that ended while no daemon was there is off, with its report.
func TestEndWithoutADaemon(t *testing.T) {
	end := make(chan struct{})
	h := newHost(t, func(ctx context.Context, m *vmtest.Machine) {
		<-end
		m.Set("guestinfo.last", "word")
	})
	ref := h.create(config("one"), nil)
	h.must(h.PowerOn(t.Context(), ref))
	h.must(h.Close())
	close(end)
	m, _, err := h.hv.Adopt(t.Context(), ref, filepath.Join(h.dir, "run", ref))
	h.must(err)
	if m != nil { // it has not ended yet
		for range m.Events() {
		}
	}
	h.must(h.journal.Close())
	h.open()
	if v := h.vm(ref); !off(v) || !v.Exit.Orderly || v.Guest["guestinfo.last"] != "word" {
		t.Errorf("VM %+v", v)
	}
}

// Whatever the last daemon had written of a VM's life when it was killed, the next one opens the inventory, finds
// exactly the machine that runs, and leaves no operation half done.
func TestKilledAtEveryRecord(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	ctx := t.Context()
	path := filepath.Join(h.dir, "journal")
	type moment struct {
		size    int64
		answers int // VMs that were answered to exist
		on      bool
	}
	var moments []moment
	note := func(answers int, on bool) {
		info, err := os.Stat(path)
		h.must(err)
		moments = append(moments, moment{info.Size(), answers, on})
	}
	ref := h.create(config("one"), &vm.DiskChange{Create: true, Path: "disks/own.vmdk"})
	note(1, false)
	h.must(h.Reconfigure(ctx, ref, vm.Change{Disk: &vm.DiskChange{Remove: true, Drop: true}}))
	note(1, false)
	h.must(h.PowerOn(ctx, ref))
	note(1, true)
	h.must(h.Reconfigure(ctx, ref, vm.Change{Disk: &vm.DiskChange{Create: true, Path: "disks/hot.vmdk"}}))
	note(1, true)
	data, err := os.ReadFile(path)
	h.must(err)
	h.must(h.Close())
	for cut := 0; cut <= len(data); cut += 13 {
		h.must(os.WriteFile(path, data[:cut], 0o600))
		h.open()
		var last moment
		for _, m := range moments {
			if int64(cut) >= m.size {
				last = m
			}
		}
		if got := len(h.List()); got < last.answers {
			t.Fatalf("cut at %d: %d VMs, %d were answered", cut, got, last.answers)
		}
		for _, v := range h.List() {
			if v.InFlight != nil {
				t.Fatalf("cut at %d: %+v is half done", cut, v.InFlight)
			}
			if last.on && v.Power != vm.PoweredOn {
				t.Fatalf("cut at %d: the running machine is not found", cut)
			}
		}
		h.must(h.Close())
	}
}

// A daemon that is gone between a clone and its receipt finds the child again, with the receipt that it gave meanwhile.
func TestReceiptOfAnAdoptedClone(t *testing.T) {
	given := make(chan struct{})
	h := newHost(t, func(ctx context.Context, m *vmtest.Machine) {
		if m.Parent() == nil {
			m.Freeze(ctx)
			return
		}
		<-given
		m.Set("guestinfo.cvm.receipt", "{}")
		<-ctx.Done()
	})
	source := h.template("template", nil)
	child := h.clone(source, "child")
	h.must(h.Close())
	close(given)
	h.must(h.journal.Close())
	h.open()
	h.wait(child, func(v *vm.VM) bool { return v.Guest["guestinfo.cvm.receipt"] == "{}" && v.Power == vm.PoweredOn })
}
