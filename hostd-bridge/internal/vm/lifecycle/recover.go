package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/inventory"
)

// Recover brings a VM of an earlier daemon into a state that was answered, or will be, and adopts its machine. Clones that were in
// flight are not its business.
func (l *Lifecycle) Recover(ctx context.Context, e *inventory.Entry) error {
	v, kind := e.VM(), ""
	if v.InFlight != nil {
		kind = v.InFlight.Kind
	}
	switch kind {
	case vm.OpCreate:
		return l.RollBack(e)
	case vm.OpDestroy:
		return l.finishDestroy(e)
	}
	if v.Power == vm.PoweredOn || kind == vm.OpStart {
		l.adopt(ctx, e)
	}
	switch kind {
	case vm.OpAttach:
		return l.opt.Disks.RollBackAttach(ctx, e)
	case vm.OpDetach:
		return l.opt.Disks.FinishDetach(ctx, e)
	}
	return nil
}

// adopt finds the VM's machine if it still runs, and else records how it ended.
func (l *Lifecycle) adopt(ctx context.Context, e *inventory.Entry) {
	v := e.VM()
	m, exit, err := l.opt.Hypervisor.Adopt(ctx, v.Ref, l.RunDir(v.Ref))
	if err == nil && m != nil {
		if err = l.follow(e, m, inventory.Synced, func(*vm.VM) {}); err == nil {
			if l.opt.Log.Info("VM adopted", "vm", v.Name, "ref", v.Ref); !e.VM().Frozen {
				l.resetCards(ctx, v, m)
			}
			return
		}
		err = errors.Join(err, m.Close())
	}
	if err != nil {
		l.opt.Log.Error("cannot adopt a machine", "vm", v.Name, "err", err)
		exit = &vm.Exit{Reason: fmt.Sprintf("cannot be found again: %v", err)}
	}
	l.Lost(e, exit)
}

// Lost records that a VM which was on, or being started, has no machine.
func (l *Lifecycle) Lost(e *inventory.Entry, exit *vm.Exit) {
	if exit.At.IsZero() {
		exit.At = time.Now().UTC()
	}
	l.ended(e, exit)
}

// Sweep removes the run directories of machines that are gone. An earlier daemon leaves one when it dies just before a start or
// just after an end.
func (l *Lifecycle) Sweep() {
	dirs, err := os.ReadDir(l.opt.RunDir)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	for _, dir := range dirs {
		if _, off := l.opt.Inventory.Machine(dir.Name()); off == nil {
			continue
		}
		err = errors.Join(err, os.RemoveAll(l.RunDir(dir.Name())))
	}
	if err != nil {
		l.opt.Log.Warn("cannot remove what is left of machines that are gone", "err", err)
	}
}
