package vim

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

const (
	// maxObjectUpdates bounds the objects in one answer of WaitForUpdatesEx; the rest comes with the next.
	maxObjectUpdates = 500
	// maxPerSession bounds the filters, the collectors and the views of a session, each.
	maxPerSession = 1000
)

// collector is a PropertyCollector: filters, and how much of what they show the client has seen.
type collector struct {
	ref     types.ManagedObjectReference
	waiting chan struct{} // holds one token while a wait is in flight

	mu      sync.Mutex
	filters []*filter
	version int
	cancel  context.CancelFunc // of the wait in flight; nil when there is none
}

func newCollector(ref types.ManagedObjectReference) *collector {
	return &collector{ref: ref, waiting: make(chan struct{}, 1)}
}

// collector returns the collector that a request is for.
func (x *session) collector(ref types.ManagedObjectReference) (*collector, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if c, ok := x.collectors[ref.Value]; ok {
		return c, nil
	}
	return nil, notFound(ref)
}

func createCollector(c *call, _ *types.CreatePropertyCollector) (*types.CreatePropertyCollectorResponse, error) {
	new := newCollector(c.session.newRef("PropertyCollector"))
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	if len(c.session.collectors) >= maxPerSession {
		return nil, tooMany("property collectors")
	}
	c.session.collectors[new.ref.Value] = new
	return &types.CreatePropertyCollectorResponse{Returnval: new.ref}, nil
}

func tooMany(what string) error {
	return fault(&types.LimitExceeded{}, "the session has %d %s: destroy those that are not needed", maxPerSession, what)
}

func destroyCollector(c *call, req *types.DestroyPropertyCollector) (*types.DestroyPropertyCollectorResponse, error) {
	old, err := c.session.collector(req.This)
	if err != nil {
		return nil, err
	}
	old.cancelWait()
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	for _, f := range old.list() {
		delete(c.session.filters, f.ref.Value)
	}
	if req.This != collectorRef {
		delete(c.session.collectors, req.This.Value)
	}
	return &types.DestroyPropertyCollectorResponse{}, nil
}

func createFilter(c *call, req *types.CreateFilter) (*types.CreateFilterResponse, error) {
	owner, err := c.session.collector(req.This)
	if err != nil {
		return nil, err
	}
	if _, err := c.scope().retrieve([]types.PropertyFilterSpec{req.Spec}); err != nil {
		return nil, err
	}
	req.Spec.ReportMissingObjectsInResults = types.NewBool(true) // an object that goes away from now on leaves alone
	f := &filter{ref: c.session.newRef("PropertyFilter"), owner: owner, spec: req.Spec}
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	if len(c.session.filters) >= maxPerSession {
		return nil, tooMany("property filters")
	}
	c.session.filters[f.ref.Value] = f
	owner.edit(func() { owner.filters = append(owner.filters, f) })
	c.server.Inventory.Signal().Wake() // a wait in flight shows the new filter
	return &types.CreateFilterResponse{Returnval: f.ref}, nil
}

func destroyFilter(c *call, req *types.DestroyPropertyFilter) (*types.DestroyPropertyFilterResponse, error) {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	f, ok := c.session.filters[req.This.Value]
	if !ok {
		return nil, notFound(req.This)
	}
	delete(c.session.filters, req.This.Value)
	f.owner.edit(func() {
		f.owner.filters = slices.DeleteFunc(f.owner.filters, func(other *filter) bool { return other == f })
	})
	return &types.DestroyPropertyFilterResponse{}, nil
}

func (p *collector) edit(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *collector) list() []*filter {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.filters)
}

func (p *collector) cancelWait() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cancel != nil {
		p.cancel()
	}
}

func cancelWait(c *call, req *types.CancelWaitForUpdates) (*types.CancelWaitForUpdatesResponse, error) {
	p, err := c.session.collector(req.This)
	if err != nil {
		return nil, err
	}
	p.cancelWait()
	return &types.CancelWaitForUpdatesResponse{}, nil
}

func waitForUpdatesEx(c *call, req *types.WaitForUpdatesEx) (*types.WaitForUpdatesExResponse, error) {
	p, err := c.session.collector(req.This)
	if err != nil {
		return nil, err
	}
	opt := types.WaitOptions{}
	if req.Options != nil {
		opt = *req.Options
	}
	set, err := p.wait(c, req.Version, opt)
	return &types.WaitForUpdatesExResponse{Returnval: set}, err
}

func waitForUpdates(c *call, req *types.WaitForUpdates) (*types.WaitForUpdatesResponse, error) {
	p, err := c.session.collector(req.This)
	if err != nil {
		return nil, err
	}
	set, err := p.wait(c, req.Version, types.WaitOptions{})
	if err != nil {
		return nil, err
	}
	return &types.WaitForUpdatesResponse{Returnval: *set}, nil
}

func checkForUpdates(c *call, req *types.CheckForUpdates) (*types.CheckForUpdatesResponse, error) {
	p, err := c.session.collector(req.This)
	if err != nil {
		return nil, err
	}
	now := int32(0)
	set, err := p.wait(c, req.Version, types.WaitOptions{MaxWaitSeconds: &now})
	return &types.CheckForUpdatesResponse{Returnval: set}, err
}

// wait returns what has changed since the client saw version; nil when nothing did in the time it allows. An empty
// version asks for everything, and is answered at once.
func (p *collector) wait(c *call, version string, opt types.WaitOptions) (*types.UpdateSet, error) {
	ctx, done, err := p.begin(c.ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := p.rewind(version); err != nil {
		return nil, err
	}
	limit := maxObjectUpdates
	if n := int(opt.MaxObjectUpdates); n > 0 && n < limit {
		limit = n
	}
	deadline := timer(opt.MaxWaitSeconds)
	for {
		changed := c.server.Inventory.Signal().Changed()
		set, err := p.updates(c.scope(), limit)
		if err != nil || len(set.FilterSet) > 0 || version == "" {
			return set, err
		}
		if opt.MaxWaitSeconds != nil && *opt.MaxWaitSeconds == 0 {
			return nil, nil
		}
		select {
		case <-changed:
		case <-deadline:
			return nil, nil
		case <-ctx.Done():
			return nil, fault(&types.RequestCanceled{}, "The wait was canceled.")
		}
	}
}

// timer returns a channel that yields after the seconds a client allows, never when it sets no limit.
func timer(seconds *int32) <-chan time.Time {
	if seconds == nil || *seconds < 0 {
		return nil
	}
	return time.After(time.Duration(*seconds) * time.Second)
}

// begin makes the caller the only one who waits on the collector, until done is called. A wait that is still in flight
// from a client that has forgotten it is canceled.
func (p *collector) begin(ctx context.Context) (_ context.Context, done func(), err error) {
	p.cancelWait()
	select {
	case p.waiting <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	ctx, cancel := context.WithCancel(ctx)
	p.edit(func() { p.cancel = cancel })
	return ctx, func() {
		p.edit(func() { p.cancel = nil })
		cancel()
		<-p.waiting
	}, nil
}

// rewind prepares for updates after version. Only the last version can be gone on from: what came before is not kept.
func (p *collector) rewind(version string) error {
	if version == "" {
		for _, f := range p.list() {
			f.seen = nil
		}
		return nil
	}
	if version != strconv.Itoa(p.version) {
		return fault(&types.InvalidCollectorVersion{}, "the last version is %d, not %q: start again with an empty version", p.version, version)
	}
	return nil
}

// updates returns at most limit changed objects and takes them as seen.
func (p *collector) updates(s scope, limit int) (*types.UpdateSet, error) {
	set := &types.UpdateSet{}
	for _, f := range p.list() {
		changes, more, err := f.updates(s, limit)
		if err != nil {
			return nil, err
		}
		limit -= len(changes)
		if len(changes) > 0 {
			set.FilterSet = append(set.FilterSet, types.PropertyFilterUpdate{Filter: f.ref, ObjectSet: changes})
		}
		if more {
			set.Truncated = types.NewBool(true)
			break
		}
	}
	p.version++
	if len(set.FilterSet) == 0 && p.version > 1 {
		p.version-- // nothing to go on from
	}
	set.Version = strconv.Itoa(p.version)
	return set, nil
}
