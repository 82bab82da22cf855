package lifecycle

import (
	"os"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/inventory"
)

// maxMarks bounds the marks of a run: a machine has about ten.
const maxMarks = 64

// watch follows a machine until it ends or is let go.
func (l *Lifecycle) watch(e *inventory.Entry, m vm.Machine) {
	var exit *vm.Exit
	for ev := range m.Events() {
		switch {
		case ev.Guestinfo != nil:
			l.guestSet(e, ev.Guestinfo)
		case ev.Frozen:
			l.froze(e)
		case ev.Mark != nil:
			l.marked(e, *ev.Mark)
		case ev.Exit != nil:
			exit = ev.Exit
		}
	}
	if exit == nil {
		if l.closing.Load() {
			return
		}
		exit = &vm.Exit{At: time.Now().UTC(), Reason: "the machine's supervisor is gone without a report"}
	}
	l.ended(e, exit)
	if err := m.Close(); err != nil {
		l.opt.Log.Warn("cannot let go of an ended machine", "vm", e.VM().Name, "err", err)
	}
}

// guestSet takes a key that the guest has set. There is no record of it: the machine tells it again at adoption and in its
// last report. A key that was already set to this value wakes nobody.
func (l *Lifecycle) guestSet(e *inventory.Entry, g *vm.Guestinfo) {
	if old, ok := e.VM().Guest[g.Key]; ok && old == g.Value {
		return
	}
	_ = e.Change(inventory.InMemory, func(v *vm.VM) { // cannot fail: nothing is written, and a VM that runs is not removed
		if v.Guest == nil {
			v.Guest = map[string]string{}
		}
		v.Guest[g.Key] = g.Value
	})
}

// froze records that the guest stands at its fork point. The record is not synced: a machine that outlives its daemon says it again.
func (l *Lifecycle) froze(e *inventory.Entry) {
	l.opt.Prestart.Use(e.VM().Ref)
	if err := e.Change(inventory.Written, func(v *vm.VM) { v.Frozen = true }); err != nil {
		l.opt.Log.Error("cannot record that a machine is frozen", "vm", e.VM().Name, "err", err)
	}
	l.opt.Networks.Changed() // it is in none any more
}

// marked takes a mark of the machine's. It wakes nobody: clients see the timeline with the next change, or when they ask. A
// start has about ten marks, and each would cost every watching client an answer on the way to the first byte.
func (l *Lifecycle) marked(e *inventory.Entry, m hostapi.Mark) {
	e.Annotate(func(v *vm.VM) bool {
		if len(v.Timeline) >= maxMarks {
			return false
		}
		v.Timeline = append(v.Timeline, m)
		return true
	})
}

// ended records the end of a machine. When the journal fails the VM is off all the same: the machine is gone.
func (l *Lifecycle) ended(e *inventory.Entry, exit *vm.Exit) {
	withdrawn := l.opt.Networks.Withdraw(e.VM()) // who sees the VM off finds its ports free
	defer withdrawn()
	err := e.Ended(func(v *vm.VM) { stopped(v, exit) }, func(v *vm.VM) {
		if err := os.RemoveAll(l.RunDir(v.Ref)); err != nil {
			l.opt.Log.Warn("cannot remove a machine's run directory", "vm", v.Name, "err", err)
		}
		l.opt.Log.Info("VM ended", "vm", v.Name, "ref", v.Ref, "orderly", exit.Orderly, "reason", exit.Reason)
	})
	if err != nil {
		l.opt.Log.Error("cannot record the end of a machine", "vm", e.VM().Name, "err", err)
	}
	l.opt.Prestart.Drop(e.VM().Ref)
}

func stopped(v *vm.VM, exit *vm.Exit) {
	v.Power, v.Started, v.Exit, v.Frozen, v.Point = vm.PoweredOff, time.Time{}, exit, false, ""
	v.Published = nil
	for n := range v.DataDisks {
		v.DataDisks[n].Point = ""
	}
	endOfStart(v)
	if exit.Guestinfo != nil {
		v.Guest = exit.Guestinfo
	}
}
