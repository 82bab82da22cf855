package main

import (
	"context"
	"errors"
	"time"

	"github.com/containervm/containervm/tether/internal/agent"
	"github.com/containervm/containervm/tether/internal/process"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// rehearsalLimit bounds each wait of a rehearsal.
const rehearsalLimit = 10 * time.Second

// rehearse goes through the start of a container on the blank disk in the root slot, and leaves nothing of it. What runs for the
// first time is slow: pages are still the template's, and an emulator has yet to translate the code. A rehearsal that fails costs
// speed alone, unless it cannot let go of the disk: that is the error.
//
// told is the host's word for it, a Spec or anything: the child takes on its interfaces, and keeps them.
func (t *tether) rehearse(ctx context.Context, told string) error {
	ctx, cancel := context.WithTimeout(ctx, rehearsalLimit)
	defer cancel()
	trial := &instance{spec: &tetherv1.Spec{Id: "rehearsal", Hostname: "rehearsal"}}
	if likely, err := link.DecodeSpec(told); err == nil {
		trial.spec.Interfaces, trial.spec.Resolver = likely.Interfaces, likely.Resolver
	}
	if err := t.rehearseIdentity(ctx, trial.spec); err != nil {
		t.console.Warn("the rehearsal of an identity failed", "err", err)
	}
	if err := trial.mountDisk(ctx, true); err != nil {
		t.console.Info("no rehearsal", "why", err)
		return nil
	}
	if err := t.rehearseStart(ctx, trial); err != nil {
		t.console.Warn("the rehearsal failed", "err", err)
	}
	trial.leaveRoot()
	if err := trial.unmountDisk(); err != nil {
		return err
	}
	return trial.disk.AwaitFree(ctx)
}

// rehearseIdentity takes on a name that is nobody's, and the spec's interfaces. Without any it takes on an address of no network and gives
// it up again. No frame leaves the machine yet.
func (t *tether) rehearseIdentity(ctx context.Context, spec *tetherv1.Spec) error {
	c := newChild()
	c.spec = &tetherv1.Spec{Hostname: spec.Hostname, Interfaces: spec.Interfaces}
	trial := len(spec.Interfaces) == 0 && t.cards.Count() > 0
	if trial {
		c.spec.Interfaces = []*tetherv1.Interface{{ // locally administered (IEEE 802, 8.4), and for documentation (RFC 5737)
			Slot: 1, Mac: "02:00:00:00:00:00", Addresses: []string{"192.0.2.2/24"}, Gateway: "192.0.2.1",
		}}
	}
	err := c.receipt.Do(t.commonItems(ctx, c)...)
	if trial {
		err = errors.Join(err, t.cards.Configure(bare()))
	}
	return err
}

// rehearseStart runs a process in a root and a space of the rehearsal's own.
func (t *tether) rehearseStart(ctx context.Context, trial *instance) error {
	base, err := t.rootBase()
	if err != nil {
		return err
	}
	place, err := newPlace(base)
	if err != nil {
		return err
	}
	if err := trial.enterRoot(base, place, t.reaper); err != nil {
		return err
	}
	if err := trial.container.Do(writeProgram); err != nil {
		return err
	}
	if err := trial.start(&tetherv1.Process{Args: []string{programPath}, Env: []string{"PATH=/bin"}}, t.console); err != nil {
		return err
	}
	return t.rehearseLog(ctx, trial.main)
}

// rehearseLog connects with the host's log as for a container's output, and waits for the process's end. No step depends on another:
// each of them is worth its while, and the process must have ended in any case.
func (t *tether) rehearseLog(ctx context.Context, main *process.Session) error {
	output, err := main.Stdout.Reader(0, true)
	if err != nil {
		return err
	}
	defer output.Close()
	host := agent.NewHostLog(t.token.DialLog, t.console)
	connected := host.Connect(ctx)
	_, read := output.Read(make([]byte, len(programText)))
	_, waited := main.Wait(ctx)
	return errors.Join(connected, read, waited, host.Finish(ctx))
}
