package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"

	"github.com/containervm/containervm/tether/internal/guestinfo"
	"github.com/containervm/containervm/tether/internal/identity"
	"github.com/containervm/containervm/tether/internal/process"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// getReady does what all children would have to do.
func (t *tether) getReady(context.Context) error {
	known := t.instance.spec.Interfaces
	if len(known) == 0 {
		known = bare()
	}
	if err := t.findCards(known); err != nil {
		return err
	}
	if err := t.cards.Settle(); err != nil {
		return &process.Error{Reason: tetherv1.Failure_NETWORK, Err: err}
	}
	base, err := t.rootBase()
	if err == nil {
		err = os.MkdirAll(diskDir, 0o755)
	}
	if err == nil {
		t.ready, err = newPlace(base)
	}
	if err != nil {
		return err
	}
	t.listenForSignals()
	spareThreads(spare)
	return t.takePort()
}

// bare is an interface that is up and has no address: what nearly every child makes its own of.
func bare() []*tetherv1.Interface { return []*tetherv1.Interface{{Slot: 1}} }

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

// freeze makes the machine a template. It returns in the children alone.
func (t *tether) freeze(ctx context.Context) error {
	t.flush(ctx) // so that no child tells what its template had to tell
	if err := t.host.Freeze(ctx); err != nil {
		return fmt.Errorf("cannot become a template: %w", err)
	}
	t.becomeFork()
	return nil
}

// becomeFork notes that the machine is a fork from now on.
func (t *tether) becomeFork() {
	t.progress.fork()
	t.child = newChild()
}

// wake makes a template's child a machine that shares no secret with it, and learns who it is to be. It waits for that without
// limit: a child may have been made ahead of time.
func (t *tether) wake(ctx context.Context) error {
	err := t.child.receipt.Do(t.entropy(ctx), identity.Item{Name: "boot-id", Do: identity.BootID})
	if err == nil {
		t.progress.mark("hello")
		err = t.warmUp(ctx)
	}
	if err == nil {
		err = t.learn(ctx)
	}
	if err != nil {
		return t.forkFailed(ctx, err)
	}
	return nil
}

// warmUp rehearses in a child that was made ahead of time, if the host asks for it.
func (t *tether) warmUp(ctx context.Context) error {
	asked, cancel := context.WithTimeout(ctx, hostWait)
	defer cancel()
	text, err := t.host.Get(asked, link.KeyRehearse)
	if errors.Is(err, link.ErrNoValue) {
		return nil
	}
	if err == nil {
		err = t.rehearse(ctx, text)
	}
	if err != nil {
		return err
	}
	t.progress.stay(link.PhaseWarm)
	return nil
}

// await reads a key that the host sets sooner or later. It has a connection of its own, since nothing else can be asked by it.
func (t *tether) await(ctx context.Context, key string) (string, error) {
	waiter := guestinfo.New(t.token.Stream())
	defer waiter.Close()
	return waiter.Await(ctx, key)
}

// learn reads who the machine is to be.
func (t *tether) learn(ctx context.Context) error {
	text, err := t.await(ctx, link.KeySpec)
	if err != nil {
		return fmt.Errorf("cannot read what to run: %w", err)
	}
	spec, err := link.DecodeSpec(text)
	if err != nil {
		return err
	}
	t.instance.spec, t.child.spec = spec, spec
	ctx, cancel := context.WithTimeout(ctx, hostWait)
	defer cancel()
	if text, err = t.host.Get(ctx, link.KeyFork); err == nil {
		if t.child.fork, err = link.DecodeFork(text); err != nil {
			return err
		}
	} else if !errors.Is(err, link.ErrNoValue) {
		return err
	}
	if _, told := t.cards.MACs(spec.Interfaces); told {
		return nil
	}
	if text, err = t.host.Get(ctx, link.KeyMACs); err == nil {
		t.child.macs = strings.Split(text, ",")
	} else if !errors.Is(err, link.ErrNoValue) {
		return err
	}
	return nil
}

// becomeChild makes a template's child the machine that its host wants.
func (t *tether) becomeChild(ctx context.Context) error {
	if err := t.child.receipt.Do(t.commonItems(ctx, t.child)...); err != nil {
		return t.forkFailed(ctx, err)
	}
	return nil
}

// closeReceipt adds what came with the root, and hands the receipt in: the host plugs in the network then.
func (t *tether) closeReceipt(ctx context.Context) error {
	err := t.child.receipt.Do(
		machineIDItem(t.child.spec),
		identity.Item{Name: "dns", Do: func() (string, error) { return "/etc/resolv.conf and /etc/hosts written with the root", nil }},
		identity.Item{Name: "neighbours", Do: func() (string, error) { return "", identity.Skip("a template has none") }},
		identity.Item{Name: "sockets", Do: func() (string, error) { return "", identity.Skip("a template has none") }},
	)
	if err != nil {
		return t.forkFailed(ctx, err)
	}
	t.reporter.Set(link.KeyVersion, t.version)
	return t.handIn(ctx)
}

// awaitGate waits until the container is to be started.
func (t *tether) awaitGate(ctx context.Context) error {
	value, err := t.await(ctx, link.KeyGate)
	if err == nil && value != link.GateOpen {
		err = fmt.Errorf("cannot start: the gate is %q, not %q", value, link.GateOpen)
	}
	return err
}
