package prestart

import (
	"context"
	"fmt"
	"time"
)

// Run fills the pool while no operation is in flight, and empties it of what is not wanted, until Close is called.
func (p *Pool) Run(ctx context.Context) {
	ctx, p.stop = context.WithCancel(context.WithoutCancel(ctx))
	p.keeper.Go(func() { p.keep(ctx) })
}

func (p *Pool) keep(ctx context.Context) {
	for ctx.Err() == nil {
		wait, ended := p.tend(ctx)
		timer := time.NewTimer(wait)
		select {
		case <-p.used:
		case <-ended:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// tend does one thing that the pool needs, and returns when to look again: after a time, or when an operation ends.
func (p *Pool) tend(ctx context.Context) (time.Duration, <-chan struct{}) {
	inFlight, lastEnd, ended := p.opt.Inventory.Operations()
	now := time.Now()
	for _, ref := range p.idle(now) {
		p.Drop(ref)
	}
	p.Discard(p.excess()...)
	ref, wait := p.lacking(now)
	if ref == "" {
		return wait, ended
	}
	if rest := quiet - now.Sub(lastEnd); rest > 0 {
		return rest, ended
	}
	if inFlight > 0 {
		return wait, ended
	}
	if err := p.add(ctx, ref); err != nil {
		if ctx.Err() == nil {
			p.opt.Log.Warn("cannot prestart a machine", "template", ref, "err", err)
		}
		p.Drop(ref) // until it is used again: then whoever uses it sees what is wrong
	}
	return 0, ended
}

// idle returns the VMs that are templates no longer.
func (p *Pool) idle(now time.Time) (refs []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ref, t := range p.templates {
		if now.Sub(t.used) >= templateIdle {
			refs = append(refs, ref)
		}
	}
	return refs
}

// excess takes those machines out of the pool that are more than wanted.
func (p *Pool) excess() (out []*Machine) {
	p.mu.Lock()
	defer p.mu.Unlock()
	wants := p.wantsLocked()
	for ref, t := range p.templates {
		if n := wants[ref]; len(t.ready) > n {
			out = append(out, t.ready[n:]...)
			t.ready = t.ready[:n]
		}
	}
	return out
}

// lacking returns a template that should have one more machine, and for how long the templates are what they are.
func (p *Pool) lacking(now time.Time) (ref string, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	wants := p.wantsLocked()
	wait = templateIdle
	for _, candidate := range p.byUseLocked() {
		t := p.templates[candidate]
		wait = min(wait, templateIdle-now.Sub(t.used))
		if ref == "" && len(t.ready) < wants[candidate] {
			ref = candidate
		}
	}
	return ref, wait
}

// add prestarts one machine, if the host has memory for it.
func (p *Pool) add(ctx context.Context, ref string) error {
	v, ok := p.opt.Inventory.Get(ref)
	if !ok {
		return fmt.Errorf("VM %s is gone", ref)
	}
	source, err := p.opt.Inventory.Machine(ref)
	if err != nil {
		return err
	}
	if err := p.opt.Admission.Prestart(); err != nil {
		return err
	}
	at, err := source.ForkPoint(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err := at.Close(); err != nil {
			p.opt.Log.Warn("cannot close a fork point", "err", err)
		}
	}()
	m, err := p.Prestart(ctx, at, v, p.opt.Inventory.LeaseCID())
	if err != nil {
		return err
	}
	p.Return(ref, m)
	return nil
}
