package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/containervm/containervm/tether/internal/guestinfo"
	"github.com/containervm/containervm/tether/internal/identity"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// watchForks sends to forks each time that the machine has become a fork of itself, until ctx ends. cid is the machine's vsock CID. The
// receiver sends the CID of the fork that it has dealt with to the channel that it got: the next one is looked for then. A machine that
// was forked again in the meantime has another CID already, so no fork is missed.
func watchForks(ctx context.Context, console *slog.Logger, cid uint32, forks chan<- chan<- uint32) {
	watch := guestinfo.NewStream(guestinfo.Dial(link.ServiceGuestinfo), guestinfo.CID)
	defer watch.Close()
	handled := make(chan uint32)
	for {
		if err := watch.AwaitFork(ctx, cid); err != nil {
			if ctx.Err() == nil {
				console.Warn("forks of this machine are not noticed", "err", err)
			}
			return
		}
		select {
		case forks <- handled:
		case <-ctx.Done():
			return
		}
		select {
		case cid = <-handled:
		case <-ctx.Done():
			return
		}
	}
}

// becomeCopy makes a fork of the running container a container of its own, and lets its processes go on. A fork that is to be a
// fork point stands still here until it is forked itself. cid is that of the fork which it has become.
func (t *tether) becomeCopy(ctx context.Context) (cid uint32, err error) {
	for {
		t.becomeFork()
		cid, err = guestinfo.CID()
		if err == nil {
			err = t.instance.hold.forked(ctx)
		}
		if err == nil {
			err = t.learn(ctx)
		}
		if err != nil {
			return cid, t.forkFailed(ctx, err)
		}
		if !isForkPoint(t.child.spec) {
			break
		}
		if err := t.host.Freeze(ctx); err != nil {
			return cid, fmt.Errorf("cannot become a fork point: %w", err)
		}
	}
	t.clock.stop() // it is set by the receipt
	if err := t.specialise(ctx); err != nil {
		return cid, err
	}
	t.clock.keep(ctx)
	t.reporter.Set(link.KeyVersion, t.version)
	t.progress.tellPhase()
	t.setStatus(t.running())
	if t.instance.health != nil {
		t.instance.health.Tell() // its own host knows nothing of it
	}
	f := t.child.fork
	if f == nil {
		f = &tetherv1.Fork{Index: 1}
	}
	return cid, t.instance.hold.release(f)
}

// isForkPoint reports whether a fork of a running container is to stand still. Hosts older than the field say so by the mode alone.
func isForkPoint(s *tetherv1.Spec) bool { return s.ForkPoint || s.Mode == tetherv1.Mode_TEMPLATE }

// specialise does all items of the receipt for a container that goes on.
func (t *tether) specialise(ctx context.Context) error {
	base, err := t.rootBase()
	if err != nil {
		return err
	}
	c, container := t.child, t.instance.container
	c.copied = true
	inRoot := func(f func() (string, error)) func() (string, error) {
		return func() (detail string, err error) {
			err = container.Do(func() (err error) {
				detail, err = f()
				return err
			})
			return detail, err
		}
	}
	items := []identity.Item{
		t.entropy(ctx),
		{Name: "boot-id", Do: inRoot(func() (string, error) { return identity.CoverBootID("/dev/shm") })},
		{Name: "sockets", Do: resetConnections},
		{Name: "stale-addresses", Do: func() (string, error) { return "", t.cards.ForgetAddresses(c.spec.Interfaces) }},
	}
	items = append(items, t.commonItems(ctx, c)...)
	items = append(items,
		identity.Item{Name: "neighbours", Do: t.forgetNeighbours},
		machineIDItem(c.spec),
		identity.Item{Name: "dns", Do: inRoot(func() (string, error) {
			return "/etc/hostname, /etc/hosts, /etc/resolv.conf and /etc/machine-id", rootOf(base, c.spec).Rewrite()
		})},
	)
	container.Rename(c.spec.Hostname)
	if err := c.receipt.Do(items...); err != nil {
		return t.forkFailed(ctx, err)
	}
	return t.handIn(ctx)
}
