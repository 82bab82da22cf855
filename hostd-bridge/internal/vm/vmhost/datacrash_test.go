package vmhost_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/journal"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmtest"
)

// A daemon that is killed while it keeps a volume, or another data disk, leaves whole disks, whatever the step, and what is left of the fork goes.
func TestKilledWhileKeepingDataDisks(t *testing.T) {
	for _, step := range []string{"linked", "made", "renamed"} {
		t.Run(step, func(t *testing.T) {
			h := newHost(t, vmtest.Idle)
			v := h.volume("v")
			source := h.with("source", data(1, v), vm.DiskChange{Unit: 2, Create: true})
			h.must(h.PowerOn(t.Context(), source))
			h.must(h.Close())
			h.must(os.MkdirAll(h.store.HostPath("cvm-forks"), 0o700))
			for n, rel := range []string{v, "source/volume-2.vmdk"} {
				disk, kept := h.store.HostPath(rel), h.store.HostPath("cvm-forks/"+source+"-"+string(rune('1'+n))+".vmdk")
				h.must(os.Link(disk, kept))
				if step != "linked" {
					h.must(h.hv.CreateDisk(t.Context(), disk+".delta", kept))
				}
				if step == "renamed" {
					h.must(os.Rename(disk+".delta", disk))
				}
			}
			h.must(errors.Join(h.journal.Close(), h.store.Close()))
			h.open()
			h.whole(v)
			want := "blank.vmdk"
			if step == "renamed" {
				want = "cvm-forks/" + source + "-2.vmdk"
			}
			if got := h.vm(source).DataDisk(2).Parent; got != want {
				t.Errorf("the own disk is a delta of %q, want %q", got, want)
			}
			if len(list(t, h.store.HostPath("cvm-volumes"))) != 1 || (step != "renamed" && len(list(t, h.store.HostPath("cvm-forks"))) != 0) {
				t.Error("something is left of the fork")
			}
			h.end(source)
			h.whole(v)
			h.must(h.DeleteDisk(t.Context(), v))
			h.nothingLeft()
		})
	}
}

// A disk that a guest does not let go of when the next daemon finishes, or rolls back, stays the VM's in its configuration: nobody else
// writes to it.
func TestBusyDiskAfterACrash(t *testing.T) {
	for _, kind := range []string{vm.OpAttach, vm.OpDetach} {
		t.Run(kind, func(t *testing.T) {
			h := newHost(t, vmtest.Idle)
			one, two := h.volume("one"), h.volume("two")
			ref := h.with("a", data(1, one), data(2, two), vm.DiskChange{Unit: 3, Create: true})
			second := h.with("b", data(1, one))
			h.must(h.PowerOn(t.Context(), ref))
			h.must(h.Close())
			v := h.vm(ref).Copy()
			v.InFlight = &vm.Operation{Kind: kind, Data: v.DataDisks}
			if kind == vm.OpAttach {
				v.DataDisks = nil
			} else {
				v.InFlight.Drop = []string{"a/volume-3.vmdk"}
			}
			put, err := journal.Put("vm/"+ref, v)
			h.must(err)
			h.must(h.journal.Commit(put))
			h.must(errors.Join(h.journal.Close(), h.store.Close()))
			busy := 0
			h.hv.On(vmtest.Unplug, func() error { // the first and the last one
				if busy++; busy != 2 {
					return errors.New("busy")
				}
				return nil
			})
			h.open()
			h.hv.On(vmtest.Unplug, nil)
			h.wantDisks(ref, "1:cvm-volumes/one.vmdk* 3:a/volume-3.vmdk*")
			if !h.exists("a/volume-3.vmdk") {
				t.Error("the file of a disk that is in use is gone")
			}
			var locked *vm.LockedError
			if err := h.PowerOn(t.Context(), second); !errors.As(err, &locked) {
				t.Errorf("a second writer: %v", err)
			}
			h.must(h.Reconfigure(t.Context(), ref, vm.Change{DataDisks: []vm.DiskChange{{Unit: 1, Remove: true}, {Unit: 3, Remove: true, Drop: true}}}))
			h.wantDisks(ref, "")
			h.must(h.PowerOn(t.Context(), second))
		})
	}
}

// When the journal fails after a disk was taken out nothing is taken for what the change has made: its file stays.
func TestJournalFailsInADetach(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	v := h.volume("v")
	ref := h.with("a", vm.DiskChange{Unit: 1, Create: true})
	h.must(h.PowerOn(t.Context(), ref))
	h.hv.On(vmtest.Unplug, func() error {
		h.hv.On(vmtest.Unplug, nil)
		return h.journal.Close()
	})
	if err := h.Reconfigure(t.Context(), ref, vm.Change{DataDisks: []vm.DiskChange{{Unit: 1, Remove: true}, data(2, v)}}); err == nil {
		t.Error("a change without a record succeeded")
	}
	if !h.exists("a/volume-1.vmdk") {
		t.Error("the file of a disk that was only removed is gone")
	}
	h.must(errors.Join(h.Close(), h.store.Close()))
	h.open()
	h.wantDisks(ref, "2:cvm-volumes/v.vmdk*")
	h.whole(v)
}

// What a daemon that is killed in a copy leaves is gone at the next start.
func TestKilledWhileCopying(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	v := h.volume("v")
	h.must(os.WriteFile(h.store.HostPath(".upload-copy"), []byte("half"), 0o600))
	h.restart()
	if left, err := filepath.Glob(h.store.HostPath(".upload-*")); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	h.whole(v)
}
