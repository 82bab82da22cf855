package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/internal/identity"
	"github.com/containervm/containervm/tether/internal/netconf"
	"github.com/containervm/containervm/tether/internal/process"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// linkWait is how long the network's links may take to come up, where the host brings them up at the receipt.
const linkWait = 2 * time.Second

// child is who a fork is to be, and the receipt of what it did for that. A rehearsal has one of its own.
type child struct {
	receipt *identity.Receipt
	spec    *tetherv1.Spec // nil until the host has told it
	fork    *tetherv1.Fork // nil: the host names none
	macs    []string       // of its network cards by slot, where the Spec does not say them; nil: they have their own
	copied  bool           // it is one of a running container
}

func newChild() *child { return &child{receipt: identity.NewReceipt(time.Now())} }

// entropy has to come first: whatever draws random numbers before it draws those of the fork point.
func (t *tether) entropy(ctx context.Context) identity.Item {
	return identity.Item{Name: "entropy", Do: func() (string, error) {
		ctx, cancel := context.WithTimeout(ctx, hostWait)
		defer cancel()
		seed, err := t.host.Seed(ctx)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%d bytes of the host's", len(seed)), identity.Reseed(seed)
	}}
}

// commonItems are those that every fork has.
func (t *tether) commonItems(ctx context.Context, c *child) []identity.Item {
	return []identity.Item{
		{Name: "clock", Do: func() (string, error) { return t.stepClock(ctx) }},
		{Name: "hostname", Do: func() (string, error) { return c.spec.Hostname, identity.SetNames(c.spec) }},
		{Name: "mac", Do: func() (string, error) {
			if macs, told := t.cards.MACs(c.spec.Interfaces); told && len(c.spec.Interfaces) > 0 {
				return netconf.Describe(c.spec.Interfaces, (*tetherv1.Interface).GetMac), t.cards.SetMACs(macs)
			}
			if c.macs == nil {
				return "", identity.Skip("the network cards came with their own")
			}
			return strings.Join(c.macs, ","), t.cards.SetMACs(c.macs)
		}},
		{Name: "addresses", Do: func() (string, error) { return t.takeAddresses(c) }},
		{Name: "leases", Do: func() (string, error) { return "", identity.Skip("addresses are static") }},
		{Name: "generation", Do: func() (string, error) {
			if c.fork == nil {
				return "", identity.Skip("the host names none")
			}
			t.generation.Set(uint64(c.fork.Generation))
			return fmt.Sprintf("generation %d, index %d", c.fork.Generation, c.fork.Index), nil
		}},
	}
}

// takeAddresses makes the interfaces what the child's Spec says.
func (t *tether) takeAddresses(c *child) (string, error) {
	wanted := c.spec.Interfaces
	if len(wanted) == 0 {
		return "none", t.cards.Configure(nil)
	}
	said := netconf.Describe(wanted, func(i *tetherv1.Interface) string { return strings.Join(i.Addresses, " ") })
	switch {
	case t.cards.Same(wanted):
		return said + ": as they were", nil
	case c.copied:
		return said, errors.Join(t.cards.Change(wanted), t.cards.Settle())
	default:
		return said, t.cards.Configure(wanted)
	}
}

// stepClock sets the wall clock. CLOCK_MONOTONIC goes on from where the template stood: for the fork no time has passed.
func (t *tether) stepClock(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, hostWait)
	defer cancel()
	off, doubt, err := identity.SetClock(func() (time.Time, error) { return t.host.Time(ctx) })
	return fmt.Sprintf("stepped by %v, known to %v", off.Round(time.Microsecond), doubt.Round(time.Microsecond)), err
}

func machineIDItem(spec *tetherv1.Spec) identity.Item {
	return identity.Item{Name: "machine-id", Do: func() (string, error) { return strings.TrimSpace(identity.MachineID(spec.Id)), nil }}
}

// resetConnections ends the source's connections. Where the kernel cannot, they end at their next packet: a fork's network knows of
// none of them, and answers with a reset.
func resetConnections() (string, error) {
	n, err := netconf.ResetConnections(func(net.IP) bool { return true })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return "", identity.Skip("the kernel destroys no sockets: the source's connections end with their next packet")
	}
	return fmt.Sprintf("%d connections reset", n), err
}

func (t *tether) forgetNeighbours() (string, error) {
	n, err := t.cards.ForgetNeighbours()
	return fmt.Sprintf("%d forgotten", n), err
}

// handIn gives the host the receipt and waits for the link that it brings.
func (t *tether) handIn(ctx context.Context) error {
	if err := t.sendReceipt(ctx); err != nil {
		return t.forkFailed(ctx, err)
	}
	if address := identity.FirstAddress(t.child.spec); address != "" {
		t.reporter.Set(link.KeyIP, address)
	}
	ctx, cancel := context.WithTimeout(ctx, linkWait)
	defer cancel()
	if err := t.cards.AwaitCarrier(ctx); err != nil { // it may be meant: a card can be disconnected
		t.console.Warn("the network is not connected", "err", err)
	}
	return nil
}

func (t *tether) sendReceipt(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, hostWait)
	defer cancel()
	text, err := link.EncodeReceipt(t.child.receipt.Close(t.child.fork))
	if err == nil {
		err = t.host.Set(ctx, link.KeyReceipt, text)
	}
	if err != nil {
		return fmt.Errorf("cannot hand in the receipt: %w", err)
	}
	t.progress.mark("linked")
	return nil
}

// forkFailed tells the host which item failed; the machine then ends, as by any failure.
func (t *tether) forkFailed(ctx context.Context, err error) error {
	if sent := t.sendReceipt(ctx); sent != nil {
		err = errors.Join(err, sent)
	}
	return &process.Error{Reason: tetherv1.Failure_FORK, Err: err}
}
