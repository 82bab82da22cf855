package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/containervm/containervm/tether/internal/guestinfo"
	"github.com/containervm/containervm/tether/internal/identity"
	"github.com/containervm/containervm/tether/internal/rootfs"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// watchForks sends to forks each time that the machine has become a fork of itself, until ctx ends. cid is the machine's vsock CID. The
// receiver sends the CID of the fork that it has dealt with to the channel that it got: the next one is looked for then. A machine that
// was forked again in the meantime has another CID already, so no fork is missed. It owns watch.
func watchForks(ctx context.Context, watch *guestinfo.Stream, console *slog.Logger, cid uint32, forks chan<- chan<- uint32) {
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
	items := []identity.Item{
		t.entropy(ctx),
		{Name: "boot-id", Do: t.coverBootID},
		{Name: "sockets", Do: resetConnections},
		{Name: "stale-addresses", Do: func() (string, error) { return "", t.cards.ForgetAddresses(c.spec.Interfaces) }},
	}
	items = append(items, t.commonItems(ctx, c)...)
	items = append(items,
		identity.Item{Name: "neighbours", Do: t.forgetNeighbours},
		machineIDItem(c.spec),
		identity.Item{Name: "dns", Do: func() (string, error) { return t.renewFiles(base) }},
		identity.Item{Name: "tcp-secrets", Do: identity.RenewTCP},
		identity.Item{Name: "wiped", Do: func() (string, error) { return t.wipe(ctx) }},
		identity.Item{Name: "told", Do: func() (string, error) { return t.tell(ctx) }}, // at last, when all is as it is to be
	)
	container.Rename(c.spec.Hostname)
	if err := c.receipt.Do(items...); err != nil {
		return t.forkFailed(ctx, err)
	}
	return t.handIn(ctx)
}

// coverBootID puts a boot ID of its own over the kernel's, where the container sees that.
func (t *tether) coverBootID() (string, error) {
	id, err := identity.NewBootID()
	if err != nil {
		return "", err
	}
	i := t.instance
	err = i.container.Do(func() error { return i.covers.PutProc(identity.BootIDPath, id+"\n") })
	if errors.Is(err, rootfs.ErrLeft) {
		return "", identity.Skip("the container has its own idea of " + identity.BootIDPath)
	}
	return id, err
}

// renewFiles gives the container's files that are the tether's the fork's names and addresses.
func (t *tether) renewFiles(base rootfs.Root) (detail string, err error) {
	root := t.instance.root(base)
	var left []string
	err = t.instance.container.Do(func() (err error) {
		left, err = root.Renew()
		return err
	})
	var written []string
	for _, f := range root.Files {
		if !slices.Contains(left, f.Path) {
			written = append(written, f.Path)
		}
	}
	detail = strings.Join(written, ", ")
	if len(left) > 0 {
		detail += "; left as the container has made them: " + strings.Join(left, ", ")
	}
	return detail, err
}
