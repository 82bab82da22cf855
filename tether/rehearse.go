package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/internal/agent"
	"github.com/containervm/containervm/tether/internal/guestinfo"
	"github.com/containervm/containervm/tether/internal/identity"
	"github.com/containervm/containervm/tether/internal/process"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// rehearsalLimit bounds each wait of a rehearsal.
const rehearsalLimit = 10 * time.Second

// rehearse goes through the start of a container on the blank disk in the root slot, and leaves nothing of it. What runs for the
// first time is slow: pages are still the template's, and an emulator has yet to translate the code. A rehearsal that fails costs
// speed alone, unless it cannot let go of the disk: that is the error.
func (t *tether) rehearse(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, rehearsalLimit)
	defer cancel()
	ready, spec := t.space, t.spec.Load()
	t.space = nil
	defer func() { t.space = ready; t.spec.Store(spec) }()
	t.spec.Store(&tetherv1.Spec{Id: "rehearsal", Hostname: "rehearsal"})
	if err := t.rehearseIdentity(ctx); err != nil {
		t.console.Warn("the rehearsal of an identity failed", "err", err)
	}
	err := t.mountDisk(ctx)
	if err != nil {
		t.console.Info("no rehearsal", "why", err)
		return nil
	}
	if err := errors.Join(t.enterRoot(ctx), t.rehearseProcess(ctx)); err != nil {
		t.console.Warn("the rehearsal failed", "err", err)
	}
	if t.container != nil {
		t.container.Close()
		t.container = nil
	}
	if err := unix.Unmount(diskDir, 0); err != nil {
		return fmt.Errorf("cannot unmount the rehearsal's disk: %w", err)
	}
	t.mounted = false
	return t.disk.AwaitFree(ctx)
}

// rehearseIdentity takes on a name and addresses that are nobody's. The network is not connected yet.
func (t *tether) rehearseIdentity(ctx context.Context) error {
	c := &child{receipt: identity.NewReceipt(time.Now()), ready: t.child.ready, macs: make([]string, len(t.cards))}
	for i := range c.macs {
		c.macs[i] = "02:00:00:00:00:00" // locally administered
	}
	return c.receipt.Do(t.common(ctx, c)...)
}

// rehearseProcess runs a process in the container, and connects with the host's log as for its output.
func (t *tether) rehearseProcess(ctx context.Context) error {
	if t.container == nil {
		return nil // enterRoot has said why
	}
	h, err := newHold(t.container, t.console)
	if err != nil {
		return err
	}
	defer h.close()
	if err := t.container.Do(writeProgram); err != nil {
		return err
	}
	session, err := t.container.Start(link.MainSession, &tetherv1.Process{Args: []string{programPath}, Env: []string{"PATH=/bin"}}, process.Options{})
	if err != nil {
		return err
	}
	output, err := session.Stdout.Reader(0, true)
	if err != nil {
		return err
	}
	host := agent.NewHostLog(guestinfo.Dial(link.ServiceLog), t.console)
	err = host.Connect(ctx)
	if _, read := output.Read(make([]byte, 64)); read != nil {
		err = errors.Join(err, read)
	}
	_ = output.Close()
	_, waited := session.Wait(ctx)
	return errors.Join(err, waited, host.Finish(ctx))
}
