package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/internal/guestinfo"
	"github.com/containervm/containervm/tether/internal/identity"
	"github.com/containervm/containervm/tether/internal/netconf"
	"github.com/containervm/containervm/tether/internal/process"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

const (
	// latePhase is how long a fork may stay in a phase before the host is told of it: telling costs a fork more than most phases.
	latePhase = time.Second
	// linkWait is how long the network link may take to come up once the host has plugged it in.
	linkWait = 2 * time.Second
)

// child is what a fork knows of itself.
type child struct {
	receipt *identity.Receipt
	fork    *tetherv1.Fork
	macs    []string // of its network cards; nil: they have their own
	// ready are the interfaces as they were configured at the fork point.
	ready []*tetherv1.Interface
}

// tellPhase tells the host in which phase a fork is. Of two goroutines that do, the later one tells the newer phase.
func (t *tether) tellPhase() {
	t.telling.Lock()
	defer t.telling.Unlock()
	t.reporter.Set(link.KeyPhase, t.phase.Load().(string))
}

// getReady does what all children would have to do.
func (t *tether) getReady(context.Context) error {
	var err error
	if t.cards, err = netconf.GetReady(t.spec.Load().Interfaces); err != nil {
		return &process.Error{Reason: tetherv1.Failure_NETWORK, Err: err}
	}
	root, err := t.root()
	if err == nil {
		err = os.MkdirAll(diskDir, 0o755)
	}
	if err == nil {
		t.space, err = process.NewSpace(root.Stage)
	}
	if err != nil {
		return err
	}
	t.listenForSignals()
	spareThreads(spare)
	return nil
}

// spare is how many idle threads a template has.
const spare = 4

// spareThreads has the runtime make n threads, which stay idle. A child needs some sooner or later; it would execute the making of
// threads for the first time, which is slow.
func spareThreads(n int) {
	var made, ended sync.WaitGroup
	release := make(chan struct{})
	made.Add(n)
	for range n {
		ended.Go(func() {
			runtime.LockOSThread() // so that this thread is of no use to others while it waits
			defer runtime.UnlockOSThread()
			made.Done()
			<-release
		})
	}
	made.Wait()
	close(release)
	ended.Wait()
}

// freeze makes the machine a template. Whoever goes on from here is a child of it.
func (t *tether) freeze(ctx context.Context) error {
	t.flush(ctx) // nothing is said by a child that its template had to say
	if err := t.host.Freeze(ctx); err != nil {
		return fmt.Errorf("cannot become a template: %w", err)
	}
	t.child = t.newChild()
	return nil
}

func (t *tether) newChild() *child {
	t.forked.Store(true)
	t.timeline.restart("forked")
	return &child{receipt: identity.NewReceipt(time.Now()), ready: t.spec.Load().Interfaces}
}

// wake makes a template's child a machine that shares no secret with it, and learns who it is to be. It waits for that without
// limit: a child may have been made ahead of time.
func (t *tether) wake(ctx context.Context) error {
	err := t.child.receipt.Do(t.entropy(ctx), identity.Item{Name: "boot-id", Do: identity.BootID})
	if err == nil {
		t.timeline.mark("hello")
		err = t.warmUp(ctx)
	}
	if err == nil {
		err = t.learn(ctx, t.child)
	}
	if err != nil {
		return t.forkFailed(ctx, err)
	}
	return nil
}

// becomeChild makes a template's child the machine that its host wants.
func (t *tether) becomeChild(ctx context.Context) error {
	if err := t.child.receipt.Do(t.common(ctx, t.child)...); err != nil {
		return t.forkFailed(ctx, err)
	}
	return nil
}

// warmUp rehearses, if the host asks for it, in a child that was made ahead of time.
func (t *tether) warmUp(ctx context.Context) error {
	asked, cancel := context.WithTimeout(ctx, hostWait)
	defer cancel()
	_, err := t.host.Get(asked, link.KeyRehearse)
	if errors.Is(err, link.ErrNoValue) {
		return nil
	}
	if err == nil {
		err = t.rehearse(ctx)
	}
	if err != nil {
		return err
	}
	t.phase.Store(link.PhaseWarm) // whoever tells the phase from now on tells this one
	t.tellPhase()
	return nil
}

// learn reads who the machine is to be.
func (t *tether) learn(ctx context.Context, c *child) error {
	waiter := guestinfo.New(guestinfo.NewStream(guestinfo.Dial(link.ServiceGuestinfo), guestinfo.CID))
	defer waiter.Close()
	text, err := waiter.Await(ctx, link.KeySpec)
	if err != nil {
		return fmt.Errorf("cannot read what to run: %w", err)
	}
	spec, err := link.DecodeSpec(text)
	if err != nil {
		return err
	}
	t.spec.Store(spec)
	ctx, cancel := context.WithTimeout(ctx, hostWait)
	defer cancel()
	if text, err = t.host.Get(ctx, link.KeyFork); err == nil {
		if c.fork, err = link.DecodeFork(text); err != nil {
			return err
		}
	} else if !errors.Is(err, link.ErrNoValue) {
		return err
	}
	if text, err = t.host.Get(ctx, link.KeyMACs); err == nil {
		c.macs = strings.Split(text, ",")
	} else if !errors.Is(err, link.ErrNoValue) {
		return err
	}
	return nil
}

// entropy has to come first: all that draws random numbers would draw the template's.
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

// common are the items that every fork has.
func (t *tether) common(ctx context.Context, c *child) []identity.Item {
	spec := t.spec.Load()
	return []identity.Item{
		{Name: "clock", Do: func() (string, error) { return t.stepClock(ctx) }},
		{Name: "hostname", Do: func() (string, error) { return spec.Hostname, identity.SetNames(spec) }},
		{Name: "mac", Do: func() (string, error) {
			if c.macs == nil {
				return "", identity.Skip("the network cards came with their own")
			}
			return strings.Join(c.macs, ","), t.cards.SetMACs(c.macs)
		}},
		{Name: "addresses", Do: func() (string, error) {
			if netconf.Same(c.ready, spec.Interfaces) {
				return identity.FirstAddress(spec) + ", as at the fork point", nil
			}
			return identity.FirstAddress(spec), netconf.Configure(spec.Interfaces)
		}},
		{Name: "leases", Do: func() (string, error) { return "", identity.Skip("addresses are static") }},
		{Name: "generation", Do: func() (string, error) {
			if c.fork == nil {
				return "", identity.Skip("the host names none")
			}
			return fmt.Sprintf("generation %d, index %d", c.fork.Generation, c.fork.Index), nil
		}},
	}
}

// stepClock sets the wall clock. CLOCK_MONOTONIC goes on from where the template stood: for the fork no time has passed.
func (t *tether) stepClock(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, hostWait)
	defer cancel()
	off, doubt, err := identity.SetClock(func() (time.Time, error) { return t.host.Time(ctx) })
	return fmt.Sprintf("stepped by %v, known to %v", off.Round(time.Microsecond), doubt.Round(time.Microsecond)), err
}

// closeReceipt adds what came with the root, and hands the receipt in: the host plugs in the network then.
func (t *tether) closeReceipt(ctx context.Context) error {
	spec := t.spec.Load()
	err := t.child.receipt.Do(
		identity.Item{Name: "machine-id", Do: func() (string, error) { return strings.TrimSpace(identity.MachineID(spec.Id)), nil }},
		identity.Item{Name: "dns", Do: func() (string, error) { return "/etc/resolv.conf and /etc/hosts written with the root", nil }},
		identity.Item{Name: "neighbours", Do: func() (string, error) { return "", identity.Skip("a template has none") }},
		identity.Item{Name: "sockets", Do: func() (string, error) { return "", identity.Skip("a template has none") }},
	)
	if err != nil {
		return t.forkFailed(ctx, err)
	}
	t.reporter.Set(link.KeyVersion, t.version)
	return t.handIn(ctx, t.child)
}

// handIn gives the host the receipt and waits for the link that it brings.
func (t *tether) handIn(ctx context.Context, c *child) error {
	if err := t.sendReceipt(ctx, c); err != nil {
		return t.forkFailed(ctx, err)
	}
	spec := t.spec.Load()
	if address := identity.FirstAddress(spec); address != "" {
		t.reporter.Set(link.KeyIP, address)
	}
	ctx, cancel := context.WithTimeout(ctx, linkWait)
	defer cancel()
	for n, i := range spec.Interfaces {
		name := i.Name
		if name == "" {
			name = fmt.Sprintf("eth%d", n)
		}
		if err := netconf.AwaitCarrier(ctx, name); err != nil {
			return &process.Error{Reason: tetherv1.Failure_NETWORK, Err: err}
		}
	}
	return nil
}

func (t *tether) sendReceipt(ctx context.Context, c *child) error {
	ctx, cancel := context.WithTimeout(ctx, hostWait)
	defer cancel()
	text, err := link.EncodeReceipt(c.receipt.Close(c.fork))
	if err == nil {
		err = t.host.Set(ctx, link.KeyReceipt, text)
	}
	if err != nil {
		return fmt.Errorf("cannot hand in the receipt: %w", err)
	}
	t.timeline.mark("linked")
	return nil
}

// forkFailed tells the host which item failed; the machine then ends, as by any failure.
func (t *tether) forkFailed(ctx context.Context, err error) error {
	if sent := t.sendReceipt(ctx, t.child); sent != nil {
		err = errors.Join(err, sent)
	}
	return &process.Error{Reason: tetherv1.Failure_FORK, Err: err}
}

// awaitGate waits until the container is to be started.
func (t *tether) awaitGate(ctx context.Context) error {
	waiter := guestinfo.New(guestinfo.NewStream(guestinfo.Dial(link.ServiceGuestinfo), guestinfo.CID))
	defer waiter.Close()
	value, err := waiter.Await(ctx, link.KeyGate)
	if err == nil && value != link.GateOpen {
		err = fmt.Errorf("cannot start: the gate is %q, not %q", value, link.GateOpen)
	}
	return err
}

// followForks makes each fork of the running container a machine of its own.
func (t *tether) followForks(ctx context.Context) {
	watch := guestinfo.New(guestinfo.NewStream(guestinfo.Dial(link.ServiceGuestinfo), guestinfo.CID))
	defer watch.Close()
	for {
		if err := watch.AwaitFork(ctx); err != nil {
			t.console.Warn("forks of this machine are not noticed", "err", err)
			return
		}
		if err := t.becomeCopy(ctx); err != nil {
			t.fail(ctx, err)
			t.powerOff()
		}
	}
}

// becomeCopy makes a fork of the running container a container of its own, and lets its processes go on. A fork that is to be a
// template stands still here until it is forked itself.
func (t *tether) becomeCopy(ctx context.Context) error {
	for {
		t.child = t.newChild()
		if err := t.hold.forked(ctx); err != nil {
			return t.forkFailed(ctx, err)
		}
		if err := t.learn(ctx, t.child); err != nil {
			return t.forkFailed(ctx, err)
		}
		if t.spec.Load().Mode != tetherv1.Mode_TEMPLATE {
			break
		}
		if err := t.host.Freeze(ctx); err != nil {
			return fmt.Errorf("cannot become a template: %w", err)
		}
	}
	if err := t.specialise(ctx); err != nil {
		return err
	}
	t.reporter.Set(link.KeyVersion, t.version)
	t.tellPhase()
	t.setStatus(&tetherv1.Status{
		State: tetherv1.State_RUNNING, StartedUnixNano: t.main.Started.UnixNano(), Pid: int32(t.main.PID),
	})
	f := t.child.fork
	if f == nil {
		f = &tetherv1.Fork{Index: 1}
	}
	return t.hold.release(f)
}

// resetConnections ends the source's connections. Where the kernel cannot, they end at their next packet: a fork's network knows of
// none of them, and answers with a reset.
func resetConnections() (string, error) {
	n, err := netconf.ResetConnections()
	if errors.Is(err, unix.EOPNOTSUPP) {
		return "", identity.Skip("the kernel destroys no sockets: the source's connections end with their next packet")
	}
	return fmt.Sprintf("%d connections reset", n), err
}

// specialise does all items of the receipt for a container that goes on.
func (t *tether) specialise(ctx context.Context) error {
	spec, c := t.spec.Load(), t.child
	root, err := t.root()
	if err == nil {
		t.cards, err = netconf.FindCards()
	}
	if err != nil {
		return err
	}
	inRoot := func(f func() (string, error)) func() (string, error) {
		return func() (detail string, err error) {
			err = t.container.Do(func() (err error) {
				detail, err = f()
				return err
			})
			return detail, err
		}
	}
	count := func(what string, f func() (int, error)) func() (string, error) {
		return func() (string, error) {
			n, err := f()
			return fmt.Sprintf("%d %s", n, what), err
		}
	}
	items := []identity.Item{
		t.entropy(ctx),
		{Name: "boot-id", Do: inRoot(func() (string, error) { return identity.CoverBootID("/dev/shm") })},
		{Name: "sockets", Do: resetConnections},
		{Name: "stale-addresses", Do: func() (string, error) { return "", netconf.ForgetAddresses(spec.Interfaces) }},
	}
	items = append(items, t.common(ctx, c)...)
	items = append(items,
		identity.Item{Name: "neighbours", Do: count("forgotten", netconf.ForgetNeighbours)},
		identity.Item{Name: "machine-id", Do: func() (string, error) { return strings.TrimSpace(identity.MachineID(spec.Id)), nil }},
		identity.Item{Name: "dns", Do: inRoot(func() (string, error) {
			return "/etc/hostname, /etc/hosts, /etc/resolv.conf and /etc/machine-id", root.Rewrite()
		})},
	)
	t.container.Rename(spec.Hostname)
	if err := c.receipt.Do(items...); err != nil {
		return t.forkFailed(ctx, err)
	}
	return t.handIn(ctx, c)
}
