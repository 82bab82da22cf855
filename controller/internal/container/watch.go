package container

import (
	"context"
	"sync"
	"time"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
)

// Run follows what happens to containers until ctx ends, and returns when all that it began has ended. It tells the feed, removes those with
// AutoRemove when they have ended, also those that ended while no controller ran, restarts those whose policy says so, and finishes changes of networks that an earlier
// controller began.
func (s *Service) Run(ctx context.Context) {
	changes := s.host.Subscribe(ctx)
	s.teller.begin(s.host.Seq())
	defer s.teller.end()
	r := &remover{s: s, busy: map[string]bool{}, done: make(chan removal)}
	var left sync.WaitGroup
	left.Go(func() { s.configureLeft(ctx) })
	left.Go(func() { s.goOnLeft(ctx) })
	left.Go(func() { s.publish(ctx) })
	defer left.Wait()
	again := newRestarter(s)
	known := pictures{}
	for _, c := range s.All() {
		known.keep(c)
		r.consider(ctx, c)
		again.revive(c)
	}
	for changes != nil || len(r.busy)+len(again.busy) > 0 {
		select {
		case e, ok := <-changes:
			if !ok {
				changes = nil
				continue
			}
			s.clock.observe(e)
			before, after := known.of(e.Before), known.of(e.After)
			s.teller.seen(e.Seq, eventsOf(before, after, time.Now()))
			known.forget(e)
			if e.After == nil {
				again.forget(e.Before.Name)
			}
			if after != nil {
				r.consider(ctx, *after)
				again.consider(*after)
			}
		case <-again.timer.C:
			if changes != nil {
				again.begin(ctx)
			}
		case ended := <-again.done:
			again.ended(ended)
		case ended := <-r.done:
			delete(r.busy, ended.id)
			if vm, ok := s.host.Get(ended.id); ok && ended.err == nil { // it was started again, and may have ended since
				if c, err := Parse(vm); err == nil {
					r.consider(ctx, c)
				}
			}
		}
	}
}

// pictures are what containers were made with, so that each is decoded once and not at every change of its VM.
type pictures map[vsphere.Ref]picture

type picture struct {
	text string // of record.KeyContainer
	c    Container
}

func (p pictures) keep(c Container) { p[c.VM.Ref] = picture{c.VM.Extra[record.KeyContainer], c} }

// of is the container of a VM as a picture of it shows it; nil: it is none.
func (p pictures) of(vm *vsphere.VM) *Container {
	if vm == nil || vm.Extra[record.KeyRole] != record.RoleContainer {
		return nil
	}
	if known, ok := p[vm.Ref]; ok && known.text == vm.Extra[record.KeyContainer] && known.c.ID == vm.Name {
		c := known.c.at(*vm)
		return &c
	}
	c, err := Parse(*vm)
	if err != nil {
		return nil
	}
	p.keep(c)
	return &c
}

// forget drops what is known of a VM that is gone.
func (p pictures) forget(e vsphere.VMEvent) {
	if e.After == nil {
		delete(p, e.Before.Ref)
	}
}
