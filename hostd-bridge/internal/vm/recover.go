package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"
)

// Open reads the inventory from its journal, finishes or undoes what an earlier daemon left half done, and adopts the
// machines that still run.
func Open(ctx context.Context, opt Options) (*Inventory, error) {
	if err := findBootID(&opt); err != nil {
		return nil, err
	}
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	i := &Inventory{
		opt: opt, signal: &Signal{}, entries: map[string]*entry{}, pools: map[string]*Pool{RootPool: rootPool()},
		stock: newStock(), forking: make(chan struct{}, forksPerCPU*max(1, opt.HostCPUs)), stop: stop,
	}
	for key, doc := range opt.Journal.Documents() {
		if err := i.load(key, doc); err != nil {
			stop()
			return nil, fmt.Errorf("cannot read %s from the journal: %w", key, err)
		}
	}
	if err := i.mendDisks(ctx); err != nil {
		return nil, errors.Join(err, i.Close())
	}
	var adoptions sync.WaitGroup
	results := make(chan error, len(i.entries))
	for _, e := range i.all() {
		adoptions.Go(func() { results <- i.settle(ctx, e) })
	}
	adoptions.Wait()
	close(results)
	var errs []error
	for err := range results {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, i.Close())
	}
	if err := i.sweepForks(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot clear up the disks of forks: %w", err), i.Close())
	}
	i.sweep()
	i.keeping.Go(func() { i.keeper(keeping) })
	return i, nil
}

func findBootID(opt *Options) error {
	if opt.BootID != "" {
		return nil
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("cannot tell the host's boots apart: %w", err)
	}
	opt.BootID = strings.TrimSpace(string(id))
	return nil
}

// sweep removes the run directories of machines that are gone, which a daemon leaves that dies just before a start or
// just after an end.
func (i *Inventory) sweep() {
	dirs, err := os.ReadDir(i.opt.RunDir)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	for _, dir := range dirs {
		if _, off := i.Machine(dir.Name()); off == nil {
			continue
		}
		err = errors.Join(err, os.RemoveAll(i.runDir(dir.Name())))
	}
	if err != nil {
		i.opt.Log.Warn("cannot remove what is left of machines that are gone", "err", err)
	}
}

func rootPool() *Pool {
	none := Limits{Limit: Unlimited}
	return &Pool{Ref: RootPool, Name: "Resources", CPU: none, Memory: none}
}

func (i *Inventory) load(key string, doc json.RawMessage) error {
	kind, ref, _ := strings.Cut(key, "/")
	switch kind {
	case countersKey:
		return json.Unmarshal(doc, &i.next)
	case "pool":
		p := &Pool{Ref: ref}
		i.pools[ref] = p
		return json.Unmarshal(doc, p)
	case "vm":
		v := &VM{Ref: ref}
		i.entries[ref] = newEntry(v)
		if err := json.Unmarshal(doc, v); err != nil {
			return err
		}
		if v.Run == 0 { // written before failed starts had numbers
			v.Run = v.Runs
		}
		return nil
	}
	return fmt.Errorf("unknown kind of document %q: written by a newer version?", kind)
}

// settle brings a VM of an earlier daemon into a state that was answered, or will be.
func (i *Inventory) settle(ctx context.Context, e *entry) error {
	v := i.snapshot(e)
	p := v.Pending
	if p == nil {
		p = &Pending{}
	}
	switch p.Kind {
	case pendingCreate:
		return i.forget(e)
	case pendingClone:
		return i.unborn(ctx, e)
	case pendingDestroy:
		return i.finishDestroy(e)
	}
	var m Machine
	if v.Power == PoweredOn || p.Kind == pendingStart {
		m = i.find(ctx, e)
	}
	switch p.Kind {
	case pendingAttach:
		if m != nil {
			i.eject(ctx, v, m)
		}
		return i.undoAttach(e)
	case pendingDetach:
		if m != nil {
			i.eject(ctx, v, m)
		}
		return i.finishDetach(e, func(*VM) {})
	}
	return nil
}

// find adopts the VM's machine if it still runs, and else records how it ended.
func (i *Inventory) find(ctx context.Context, e *entry) Machine {
	v := i.snapshot(e)
	m, exit, err := i.opt.Hypervisor.Adopt(ctx, i.runDir(v.Ref))
	if err == nil && m != nil {
		if err = i.began(e, m, journaled); err == nil {
			i.opt.Log.Info("VM adopted", "vm", v.Name, "ref", v.Ref)
			return m
		}
		err = errors.Join(err, m.Close())
	}
	if err != nil {
		i.opt.Log.Error("cannot adopt a machine", "vm", v.Name, "err", err)
		exit = &Exit{Reason: fmt.Sprintf("cannot be found again: %v", err)}
	}
	i.lost(e, exit)
	return nil
}

// unborn undoes a clone that was never answered. Its machine may have come to life just before the daemon died. That a clone
// was answered is noted, not synced, since its sync has gone on while the machine came to life: so one that is found after a
// crash of the host may have been answered, and stays, as a VM that is off.
func (i *Inventory) unborn(ctx context.Context, e *entry) error {
	v := i.snapshot(e)
	if v.Pending.Boot != i.opt.BootID {
		i.lost(e, &Exit{Reason: "the host went down while the VM was cloned, or soon after"})
		return nil
	}
	m, _, err := i.opt.Hypervisor.Adopt(ctx, i.runDir(v.Ref))
	if err == nil && m != nil {
		err = errors.Join(m.Kill(ctx), m.Close())
	}
	if err != nil {
		i.opt.Log.Error("cannot end a machine that nobody was told of", "vm", v.Name, "err", err)
	}
	return i.forget(e)
}

// lost records that a VM which was on, or being started, has no machine.
func (i *Inventory) lost(e *entry, exit *Exit) {
	if exit.At.IsZero() {
		exit.At = time.Now().UTC()
	}
	i.publish(func() { e.ended = make(chan struct{}) })
	i.end(e, exit)
}

// eject empties the machine's root slot after a half-done change of it. It may be empty already, and the guest may hold
// it still: then the disk's file stays open in the machine until that ends, which does no harm.
func (i *Inventory) eject(ctx context.Context, v *VM, m Machine) {
	if err := m.DetachDisk(ctx); err != nil {
		i.opt.Log.Warn("cannot empty the root slot after an interrupted change", "vm", v.Name, "err", err)
	}
}
