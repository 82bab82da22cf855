package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// keeper fills the stock while nothing else is under way, and clears what is not wanted, until ctx ends.
func (i *Inventory) keeper(ctx context.Context) {
	for ctx.Err() == nil {
		timer := time.NewTimer(i.tend(ctx))
		select {
		case <-i.stock.stir:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// tend does one thing that the stock needs and returns when to look again if nothing stirs.
func (i *Inventory) tend(ctx context.Context) time.Duration {
	now := time.Now()
	for _, ref := range i.idle(now) {
		i.unshelve(ref)
	}
	i.discard(i.excess()...)
	ref, wait := i.lacking(now)
	if ref == "" {
		return wait
	}
	if err := i.stockUp(ctx, ref); err != nil {
		if ctx.Err() == nil {
			i.opt.Log.Warn("cannot prepare a machine", "template", ref, "err", err)
		}
		i.unshelve(ref) // until it is used again: then whoever uses it sees what is wrong
	}
	return 0
}

// idle returns the templates that are no longer in use.
func (i *Inventory) idle(now time.Time) (refs []string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for ref, sh := range i.stock.shelves {
		if now.Sub(sh.used) >= templateIdle {
			refs = append(refs, ref)
		}
	}
	return refs
}

// excess takes the children off the shelves that are more than wanted.
func (i *Inventory) excess() (out []*prepared) {
	i.mu.Lock()
	defer i.mu.Unlock()
	wants := i.wants()
	for ref, sh := range i.stock.shelves {
		if n := wants[ref]; len(sh.ready) > n {
			out = append(out, sh.ready[n:]...)
			sh.ready = sh.ready[:n]
		}
	}
	return out
}

// lacking returns a template for which a child is to be prepared now, or how long there will be nothing to do.
func (i *Inventory) lacking(now time.Time) (ref string, wait time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	wants := i.wants()
	wait = templateIdle
	for _, candidate := range i.byUse() {
		sh := i.stock.shelves[candidate]
		wait = min(wait, templateIdle-now.Sub(sh.used))
		if ref == "" && len(sh.ready) < wants[candidate] {
			ref = candidate
		}
	}
	if rest := restockQuiet - now.Sub(i.stock.quiet); ref != "" && rest > 0 {
		return "", rest
	}
	if i.stock.under > 0 {
		return "", wait // the end of the operation stirs
	}
	return ref, wait
}

// stockUp prepares one child, if the host has memory for it.
func (i *Inventory) stockUp(ctx context.Context, ref string) error {
	v, ok := i.Get(ref)
	m, err := i.Machine(ref)
	if !ok || err != nil {
		return errors.Join(err, fmt.Errorf("VM %s is gone", ref))
	}
	if available, err := i.available(); err != nil || available < ReserveMiB+ForkCostMiB {
		return errors.Join(err, &MemoryError{Where: "the host's memory that is not in use", Requested: ForkCostMiB, Available: max(0, available-ReserveMiB)})
	}
	t, err := m.Template(ctx)
	if err != nil {
		return err
	}
	defer i.closeTemplate(t)
	p, err := i.prepare(ctx, t, childSpec(v), i.holdCID())
	if err != nil {
		return err
	}
	i.putBack(ref, p)
	return nil
}

// holdCID reserves a context ID for a prepared child.
func (i *Inventory) holdCID() uint32 {
	i.mu.Lock()
	defer i.mu.Unlock()
	cid := i.freeCID(i.next.CID)
	i.next.CID, i.stock.held[cid] = cid, true
	return cid
}

// prepare has a child with the context ID cid, which is held, wait for the template's state.
func (i *Inventory) prepare(ctx context.Context, t Template, spec ChildSpec, cid uint32) (*prepared, error) {
	p := &prepared{cid: cid}
	var err error
	if p.dir, err = i.shelfDir(); err == nil {
		spec.CID, spec.RunDir = cid, p.dir
		p.child, err = i.opt.Hypervisor.Prepare(ctx, t, spec)
	}
	if err != nil {
		i.mu.Lock()
		delete(i.stock.held, cid)
		i.mu.Unlock()
		return nil, errors.Join(fmt.Errorf("cannot prepare a machine: %w", err), os.RemoveAll(p.dir))
	}
	return p, nil
}
