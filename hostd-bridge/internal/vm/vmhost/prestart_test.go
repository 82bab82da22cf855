package vmhost_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/admission"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmhost"
)

// inBubble runs a test on a host whose time is the test's own, and ends all its machines.
func inBubble(t *testing.T, edit func(*vmhost.Options), test func(t *testing.T, h *host)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, freezer, edit)
		test(t, h)
		if err := errors.Join(h.Close(), h.journal.Close(), h.store.Close()); err != nil {
			t.Error(err)
		}
		if open := h.hv.Open(); open != 0 {
			t.Errorf("%d fork points and prestarted machines are open after the end", open)
		}
		h.hv.KillAll()
	})
}

// prestarted returns how many machines are prestarted for a template, and how many are wanted.
func (h *host) prestarted(ref string) (ready, want int) {
	for _, p := range h.Prestart.Status() {
		if p.Template == ref {
			return p.Prestarted, p.Want
		}
	}
	return -1, -1
}

func (h *host) wantPrestarted(ref string, ready, want int) {
	h.t.Helper()
	if r, w := h.prestarted(ref); r != ready || w != want {
		h.t.Errorf("%d of %d machines are prestarted for %s, want %d of %d", r, w, ref, ready, want)
	}
}

func TestPrestart(t *testing.T) {
	inBubble(t, func(o *vmhost.Options) { o.Prestart, o.PrestartMemoryMiB = 1, 100 }, func(t *testing.T, h *host) {
		source := h.template("template", nil)
		synctest.Wait()
		h.wantPrestarted(source, 0, 1) // not at once: whoever made the template may go on
		time.Sleep(time.Second)
		h.wantPrestarted(source, 1, 1)
		child := h.clone(source, "child")
		if h.hv.Prestarted() != 1 {
			t.Error("a machine was started beside the prestarted one")
		}
		h.wantPrestarted(source, 0, 1)
		second := h.clone(source, "second")
		if a, b := h.vm(child).CID, h.vm(second).CID; a == b || a == h.vm(source).CID {
			t.Errorf("CIDs %d and %d", a, b)
		}
		time.Sleep(time.Second)
		h.wantPrestarted(source, 1, 1)
		// one that cannot be used is not lost
		if _, err := h.InstantClone(t.Context(), source, vm.CloneSpec{Name: "child"}); err == nil {
			t.Error("a name was given twice")
		}
		h.wantPrestarted(source, 1, 1)
		time.Sleep(11 * time.Minute)
		h.wantPrestarted(source, 0, 0)
		if open, dirs := h.hv.Open(), list(t, h.dir+"/run"); open != 0 || len(dirs) != 3 {
			t.Errorf("of a template that nobody uses %d are open; directories %v", open, dirs)
		}
		h.clone(source, "late")
		time.Sleep(time.Second)
		h.wantPrestarted(source, 1, 1)
		h.must(h.PowerOff(t.Context(), source))
		synctest.Wait()
		if h.hv.Open() != 0 {
			t.Error("prestarted machines of a template that is gone are kept")
		}
	})
}

// While an operation is in flight no machine is prestarted.
func TestPrestartWaits(t *testing.T) {
	inBubble(t, func(o *vmhost.Options) { o.Prestart, o.PrestartMemoryMiB = 1, 100 }, func(t *testing.T, h *host) {
		source := h.template("template", nil)
		other := h.create(config("other"), nil)
		slow := make(chan struct{})
		h.hv.On("start", func() error { <-slow; return nil })
		started := make(chan error)
		go func() { started <- h.PowerOn(t.Context(), other) }()
		time.Sleep(time.Minute)
		h.wantPrestarted(source, 0, 1)
		close(slow)
		h.must(<-started)
		time.Sleep(time.Second)
		h.wantPrestarted(source, 1, 1)
	})
}

// The memory of all is bounded; the template that was used last comes first.
func TestPrestartIsBounded(t *testing.T) {
	var available atomic.Int64
	available.Store(10000)
	inBubble(t, func(o *vmhost.Options) {
		o.Prestart, o.PrestartMemoryMiB = 2, 80
		o.MemAvailable = func() (int64, error) { return available.Load(), nil }
	}, func(t *testing.T, h *host) {
		a, b := h.template("a", nil), h.template("b", nil)
		time.Sleep(time.Millisecond)
		h.clone(b, "of b")
		time.Sleep(time.Second)
		h.wantPrestarted(b, 2, 2)
		h.wantPrestarted(a, 1, 1)
		h.clone(a, "of a")
		time.Sleep(time.Second)
		h.wantPrestarted(a, 2, 2)
		h.wantPrestarted(b, 1, 1)
		available.Store(admission.ReserveMiB + admission.ForkCostMiB)
		h.clone(a, "of a too")
		available.Add(-1)
		time.Sleep(time.Second)
		h.wantPrestarted(a, 0, 0)
	})
}

func TestNoPrestart(t *testing.T) {
	inBubble(t, func(o *vmhost.Options) { o.PrestartMemoryMiB = 100 }, func(t *testing.T, h *host) {
		source := h.template("template", nil)
		h.clone(source, "child")
		time.Sleep(time.Minute)
		h.wantPrestarted(source, 0, 0)
		if h.hv.Prestarted() != 1 {
			t.Errorf("%d machines were prestarted, want the one that was asked for", h.hv.Prestarted())
		}
	})
}

// A mark wakes nobody; it is there when someone asks.
func TestMarksWakeNobody(t *testing.T) {
	inBubble(t, func(*vmhost.Options) {}, func(t *testing.T, h *host) {
		source := h.template("template", nil)
		child := h.clone(source, "child")
		synctest.Wait()
		changed := h.Signal().Changed()
		for range 100 {
			h.hv.Machine(child).Mark("linked")
		}
		synctest.Wait()
		select {
		case <-changed:
			t.Error("a mark woke those who wait for changes")
		default:
		}
		marks := h.vm(child).Timeline
		if len(marks) != 64 || marks[0].Name != hostapi.MarkBegun || marks[63].Name != "linked" {
			t.Errorf("%d marks: %+v", len(marks), marks)
		}
		h.must(h.PowerOff(t.Context(), child))
		h.must(h.PowerOn(t.Context(), child))
		synctest.Wait()
		if marks := h.vm(child).Timeline; len(marks) != 2 {
			t.Errorf("after a new start: %+v", marks)
		}
	})
}
