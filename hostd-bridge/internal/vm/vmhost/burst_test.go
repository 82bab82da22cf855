package vmhost_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/admission"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmhost"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmtest"
)

// clones makes n clones at once and returns their references, or errors, by their names.
func (h *host) clones(source string, n int, name func(int) string) (refs map[string]string, errs map[string]error) {
	var mu sync.Mutex
	var all sync.WaitGroup
	refs, errs = map[string]string{}, map[string]error{}
	for k := range n {
		all.Go(func() {
			ref, err := h.InstantClone(h.t.Context(), source, vm.CloneSpec{Name: name(k)})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs[fmt.Sprint(k)] = err
				return
			}
			refs[name(k)] = ref
		})
	}
	all.Wait()
	return refs, errs
}

// A hundred clones at once, of which a part fails: each is whole or gone, and nothing is left of either in the end.
func TestHundredClonesAtOnce(t *testing.T) {
	for _, prestart := range []int{0, 2} {
		h := newHost(t, freezer, func(o *vmhost.Options) {
			o.HostMemoryMiB, o.Prestart, o.PrestartMemoryMiB = 1<<20, prestart, 100
		})
		source := h.template("template", &vm.DiskChange{Create: true, Path: "template/root.vmdk"})
		goroutines := runtime.NumGoroutine()
		broken := errors.New("broken")
		var failed atomic.Int32
		for _, stage := range []vmtest.Stage{vmtest.ForkPoint, vmtest.Prestart, vmtest.Fork} {
			h.hv.On(stage, func() error {
				if rand.IntN(10) == 0 {
					failed.Add(1)
					return broken
				}
				return nil
			})
		}
		refs, errs := h.clones(source, 100, func(k int) string { return fmt.Sprint("child", k) })
		for _, stage := range []vmtest.Stage{vmtest.ForkPoint, vmtest.Prestart, vmtest.Fork} {
			h.hv.On(stage, nil)
		}
		if len(refs)+len(errs) != 100 || len(errs) > int(failed.Load()) {
			t.Errorf("%d clones, %d errors of %d", len(refs), len(errs), failed.Load())
		}
		for k, err := range errs {
			if !errors.Is(err, broken) {
				t.Errorf("clone %s: %v", k, err)
			}
		}
		cids, macs := map[uint32]bool{}, map[string]bool{}
		for _, v := range h.List() {
			if cids[v.CID] || macs[v.NICs[0].MAC] || v.InFlight != nil || v.Power != vm.PoweredOn {
				t.Errorf("VM %+v", v)
			}
			cids[v.CID], macs[v.NICs[0].MAC] = true, true
		}
		if len(cids) != len(refs)+1 {
			t.Errorf("%d VMs, %d clones succeeded", len(cids), len(refs))
		}
		h.end(source)
		for _, ref := range refs {
			h.end(ref)
		}
		h.nothingLeft()
		for n := runtime.NumGoroutine(); n > goroutines; n = runtime.NumGoroutine() {
			runtime.Gosched() // those of machines that were just killed
		}
	}
}

func TestOneNameForMany(t *testing.T) {
	h := newHost(t, freezer)
	source := h.template("template", nil)
	refs, errs := h.clones(source, 20, func(int) string { return "child" })
	if len(refs) != 1 || len(errs) != 19 {
		t.Fatalf("%d clones of one name, %d errors", len(refs), len(errs))
	}
	var duplicate *vm.DuplicateNameError
	for _, err := range errs {
		if !errors.As(err, &duplicate) || duplicate.Ref != refs["child"] {
			t.Errorf("error %v", err)
		}
	}
	h.end(source, refs["child"])
	h.nothingLeft()
}

// The host's memory ends in the middle of a burst: the rest is refused in words that say so, and what runs goes on.
func TestMemoryEndsInABurst(t *testing.T) {
	var h *host
	const fits = 7
	running := func() (n int64) {
		if h != nil {
			for _, v := range h.List() {
				if v.Power == vm.PoweredOn {
					n++
				}
			}
		}
		return n
	}
	h = newHost(t, freezer, func(o *vmhost.Options) {
		o.HostMemoryMiB = 1 << 20
		o.MemAvailable = func() (int64, error) {
			if h == nil || h.Host == nil {
				return 10000, nil
			}
			return admission.ReserveMiB + admission.ForkCostMiB*(fits+1-running()), nil
		}
	})
	h.hv.On(vmtest.Start, nil)
	source := h.create(config("template"), nil)
	h.must(h.PowerOn(t.Context(), source))
	h.wait(source, frozen)
	refs, errs := h.clones(source, 30, func(k int) string { return fmt.Sprint("child", k) })
	if len(refs) != fits || len(errs) != 30-fits {
		t.Errorf("%d clones, %d errors; memory was for %d", len(refs), len(errs), fits)
	}
	var memory *vm.MemoryError
	for _, err := range errs {
		if !errors.As(err, &memory) || memory.Requested != admission.ForkCostMiB {
			t.Errorf("error %v", err)
		}
	}
	if err := h.PowerOn(t.Context(), h.create(config("boots"), nil)); !errors.As(err, &memory) {
		t.Errorf("power-on: %v", err)
	}
	for name, ref := range refs {
		if m := h.hv.Machine(ref); m.Exit() != nil || h.vm(ref).Power != vm.PoweredOn {
			t.Errorf("%s does not go on", name)
		}
	}
}

// A source that ends while it is cloned leaves no child.
func TestSourceEndsInTheMiddle(t *testing.T) {
	for what, guest := range map[string]vmtest.Guest{"frozen": freezer, "running": vmtest.Idle} {
		h := newHost(t, guest)
		source := h.running("source")
		if what == "frozen" {
			h.wait(source, frozen)
		}
		kill := func() error {
			h.hv.Machine(source).Kill()
			h.wait(source, off)
			return nil
		}
		h.hv.On(vmtest.ForkPoint, kill)
		h.hv.On(vmtest.Snapshot, kill)
		var state *vm.StateError
		if _, err := h.InstantClone(t.Context(), source, vm.CloneSpec{Name: "child"}); !errors.As(err, &state) {
			t.Errorf("%s: error %v", what, err)
		}
		if len(h.List()) != 1 || h.exists("child") || len(list(t, filepath.Join(h.dir, "run"))) != 0 {
			t.Errorf("%s: something is left of the child", what)
		}
		h.chain("source/root.vmdk")
		h.must(h.Destroy(t.Context(), source))
		h.nothingLeft()
	}
}

// Frozen machines are found again, frozen, and can be cloned.
func TestFrozenMachinesAreAdopted(t *testing.T) {
	h := newHost(t, freezer)
	source := h.template("template", nil)
	child := h.clone(source, "child")
	h.restart()
	if !h.vm(source).Frozen || h.vm(child).Frozen || h.vm(child).Power != vm.PoweredOn {
		t.Errorf("found again: %+v and %+v", h.vm(source), h.vm(child))
	}
	ctx := t.Context()
	var frozen *vm.FrozenError
	_, live := h.Live(source)
	for what, err := range map[string]error{
		"reset": h.Reset(ctx, source),
		"disk":  h.Reconfigure(ctx, source, vm.Change{Disk: &vm.DiskChange{Create: true}}),
		"live":  live,
	} {
		if !errors.As(err, &frozen) {
			t.Errorf("%s: %v", what, err)
		}
	}
	h.must(h.Reconfigure(ctx, source, vm.Change{Name: "renamed", Extra: map[string]string{"cvm.note": "x"}}))
	second := h.clone(source, "second")
	h.end(source, child, second)
	h.nothingLeft()
}

// A context that ends in the middle leaves nothing either.
func TestCloneIsCanceled(t *testing.T) {
	h := newHost(t, freezer)
	source := h.template("template", nil)
	ctx, cancel := context.WithCancel(t.Context())
	h.hv.On(vmtest.ForkPoint, func() error { cancel(); return nil })
	if _, err := h.InstantClone(ctx, source, vm.CloneSpec{Name: "child"}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	h.end(source)
	h.nothingLeft()
}

// Of many VMs that are to have one disk one gets it, and it stays when the others fail.
func TestOneDiskForMany(t *testing.T) {
	h := newHost(t, vmtest.Idle)
	var made atomic.Int32
	var all sync.WaitGroup
	for k := range 20 {
		all.Go(func() {
			if _, err := h.Create(t.Context(), config(fmt.Sprint("vm", k)), &vm.DiskChange{Create: true, Path: "disks/one.vmdk"}); err == nil {
				made.Add(1)
			}
		})
	}
	all.Wait()
	if made.Load() != 1 || len(h.List()) != 1 || !h.exists("disks/one.vmdk") {
		t.Errorf("%d VMs got the disk, which is there: %v", made.Load(), h.exists("disks/one.vmdk"))
	}
}
