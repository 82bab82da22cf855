package networks

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/netswitch"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

const (
	// startTime and stopTime bound what a switch may take for something that takes milliseconds.
	startTime = 10 * time.Second
	stopTime  = 2 * time.Second
	// firstRetry and lastRetry are after which time a start that failed is tried again; each time it is twice as long.
	firstRetry = 100 * time.Millisecond
	lastRetry  = 10 * time.Second
	// portRetry is how often a lost port is tried for again.
	portRetry = 5 * time.Second
)

// owner brings the switch of one network to what it should be.
type owner struct {
	networks *Networks
	ref      string
	wake     chan struct{} // holds one token when there is something to do
	lock     chan struct{} // holds one token while somebody tends the switch; all below is guarded by it

	sw       vm.Switch         // nil: none runs
	adopted  bool              // whether a switch of an earlier daemon was looked for
	told     *netswitch.Config // what sw was told last; nil: nothing
	result   netswitch.Result  // of that
	without  map[string][]hostapi.Publication
	idle     time.Time     // since when nobody needs sw
	retry    time.Duration // after which the next start is tried
	retryAt  time.Time
	portsAt  time.Time       // when lost ports are tried for again
	said     map[string]bool // lost ports that stand in the log
	gone     bool            // there is no such network
	lastSaid int64           // guarded by Networks.mu: frames that sw counted as forged

	live vm.Switch // guarded by Networks.mu: sw, for those who look at it
}

func newOwner(n *Networks, ref string) *owner {
	return &owner{networks: n, ref: ref, wake: make(chan struct{}, 1), lock: make(chan struct{}, 1), without: map[string][]hostapi.Publication{}, said: map[string]bool{}}
}

// look has the owner look whether there is something to do.
func (o *owner) look() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// run tends the switch whenever something has changed, and when it ends.
func (o *owner) run() {
	ctx := o.networks.ctx
	for ctx.Err() == nil {
		wait, done := o.next()
		timer := time.NewTimer(wait)
		select {
		case <-o.wake:
		case <-done:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
		if _, err := o.tend(ctx, ""); err != nil && ctx.Err() == nil {
			o.networks.opt.Log.Error("cannot run the switch of a network", "network", o.ref, "err", err)
		}
		if o.over() {
			return
		}
	}
}

// over says whether there is nothing to own any more, ever: no network has the reference of another.
func (o *owner) over() bool {
	o.lock <- struct{}{}
	defer func() { <-o.lock }()
	if !o.gone || o.sw != nil {
		return false
	}
	o.networks.mu.Lock()
	defer o.networks.mu.Unlock()
	delete(o.networks.owners, o.ref)
	return true
}

// next says when to look again, and what ends with the switch.
func (o *owner) next() (time.Duration, <-chan struct{}) {
	o.lock <- struct{}{}
	defer func() { <-o.lock }()
	wait, now := time.Hour, time.Now()
	if o.sw != nil && !o.idle.IsZero() {
		wait = min(wait, o.idle.Add(o.networks.opt.Linger).Sub(now))
	}
	if o.sw == nil && !o.retryAt.IsZero() {
		wait = min(wait, o.retryAt.Sub(now))
	}
	if len(o.without) > 0 {
		wait = min(wait, o.portsAt.Sub(now))
	}
	if o.sw == nil {
		return max(wait, 0), nil
	}
	return max(wait, 0), o.sw.Done()
}

// tend brings the switch to what it should be now. ref names the VM whose operation it is for, which decides itself what a failure of
// its ports means; it has a switch started at once. "": it is for none.
func (o *owner) tend(ctx context.Context, ref string) (netswitch.Result, error) {
	select {
	case o.lock <- struct{}{}:
		defer func() { <-o.lock }()
	case <-ctx.Done():
		return netswitch.Result{}, ctx.Err()
	}
	if ref != "" {
		defer o.look() // the owner waits for the end of a switch that it may not know yet
	}
	o.notice()
	if ref == "" && o.sw == nil && time.Now().Before(o.retryAt) {
		return netswitch.Result{}, nil // next says when
	}
	err := o.bring(ctx, ref)
	if err != nil && ref != "" && ctx.Err() == nil {
		err = o.bring(ctx, ref) // another switch
	}
	if err != nil && ctx.Err() == nil {
		o.retry = min(max(2*o.retry, firstRetry), lastRetry)
		o.retryAt = time.Now().Add(o.retry)
	}
	return o.result, err
}

// bring brings the switch to what it should be, once.
func (o *owner) bring(ctx context.Context, ref string) error {
	if err := o.adopt(ctx); err != nil {
		return err
	}
	config, known := o.networks.config(o.ref)
	o.gone = !known
	switch {
	case !known:
		return o.end("its network is gone")
	case len(config.Endpoints) == 0:
		return o.rest(ctx, config)
	}
	o.idle = time.Time{}
	err := o.follow(ctx, config, ref)
	if err == nil && ref != "" && o.result.Endpoints[ref].Failed != nil {
		o.told = nil // it is asked again when somebody tries again
	}
	return err
}

// notice notices that the switch has ended by itself.
func (o *owner) notice() {
	if o.sw == nil {
		return
	}
	select {
	case <-o.sw.Done():
	default:
		return
	}
	o.networks.opt.Log.Error("the switch of a network has ended: another one is started", "network", o.ref, "pid", o.sw.PID())
	o.forget(true)
}

// forget lets go of a switch that has ended, or is about to.
func (o *owner) forget(died bool) {
	_ = o.sw.Close() // it has nothing to say any more
	n := o.networks
	n.mu.Lock()
	o.live = nil
	n.forged, o.lastSaid = n.forged+o.lastSaid, 0
	if died {
		n.restarts++
	}
	n.mu.Unlock()
	o.sw, o.told, o.idle = nil, nil, time.Time{}
	clear(o.without)
	clear(o.said)
}

func (o *owner) have(s vm.Switch) {
	o.sw, o.told, o.retry, o.retryAt = s, nil, 0, time.Time{}
	o.networks.mu.Lock()
	o.live = s
	o.networks.mu.Unlock()
}

// adopt finds the switch of an earlier daemon, the first time.
func (o *owner) adopt(ctx context.Context) error {
	if o.adopted {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	s, err := o.networks.opt.Switches.AdoptSwitch(ctx, o.networks.dir(o.ref))
	if err != nil {
		return err
	}
	o.adopted = true
	if s != nil {
		o.networks.opt.Log.Info("switch adopted", "network", o.ref, "pid", s.PID())
		o.have(s)
	}
	return nil
}

// start starts a switch, in a directory in which nothing is left of another one.
func (o *owner) start(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	dir := o.networks.dir(o.ref)
	s, err := o.networks.opt.Switches.AdoptSwitch(ctx, dir)
	if err == nil && s == nil {
		s, err = o.networks.opt.Switches.StartSwitch(ctx, dir, name)
	}
	if err != nil {
		return err
	}
	o.networks.opt.Log.Info("switch runs", "network", name, "ref", o.ref, "pid", s.PID())
	o.have(s)
	return nil
}

// follow tells the switch a configuration, and starts it if none runs.
func (o *owner) follow(ctx context.Context, config netswitch.Config, ref string) error {
	if o.sw == nil {
		if err := o.start(ctx, config.Name); err != nil {
			return err
		}
	}
	if len(o.without) > 0 && !time.Now().Before(o.portsAt) {
		clear(o.without)
	}
	delete(o.without, ref)
	for {
		leave := o.trimmed(config)
		if o.told != nil && reflect.DeepEqual(leave, *o.told) {
			return nil
		}
		if err := o.apply(ctx, leave); err != nil {
			return err
		}
		if !o.lost() {
			return nil
		}
	}
}

// apply tells the switch a configuration. One that does not take it is ended.
func (o *owner) apply(ctx context.Context, config netswitch.Config) error {
	ctx, cancel := context.WithTimeout(ctx, o.networks.opt.Patience)
	defer cancel()
	result, err := o.sw.Apply(ctx, config)
	if err == nil {
		o.told, o.result = &config, result
		return nil
	}
	if errors.Is(context.Cause(ctx), context.Canceled) { // of whoever asked; the switch may have done it
		o.told = nil
		return err
	}
	err = fmt.Errorf("the switch of network %q: %w", config.Name, err)
	return errors.Join(err, o.kill(true))
}

// kill ends the switch.
func (o *owner) kill(died bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	err := o.sw.Stop(ctx)
	o.forget(died)
	return err
}

// trimmed returns a configuration without what was found to be impossible.
func (o *owner) trimmed(c netswitch.Config) netswitch.Config {
	if len(o.without) == 0 {
		return c
	}
	c.Endpoints = slices.Clone(c.Endpoints)
	for i := range c.Endpoints {
		e := &c.Endpoints[i]
		if lost := o.without[e.VM]; len(lost) > 0 {
			e.Publish = slices.DeleteFunc(slices.Clone(e.Publish), func(p hostapi.Publication) bool { return slices.Contains(lost, p) })
		}
	}
	return c
}

// lost takes note of the ports that the switch could not bind, unless they are those of an operation in flight, which fails then: a VM
// that is on stays in its network without them until they are free again. It says whether there are new ones.
func (o *owner) lost() (found bool) {
	for ref, outcome := range o.result.Endpoints {
		f := outcome.Failed
		if f == nil || o.networks.inFlight(ref) {
			continue
		}
		log := o.networks.opt.Log.With("network", o.ref, "vm", ref, "err", f.Text)
		if f.Publication.Protocol == "" {
			log.Error("a VM's network adapter is not taken by its switch")
			continue
		}
		if slices.Contains(o.without[ref], f.Publication) {
			continue
		}
		if port := fmt.Sprint(ref, f.Publication); !o.said[port] {
			o.said[port] = true
			log.Error("a published port is lost; it is tried for again", "port", f.Publication.HostPort, "protocol", f.Publication.Protocol)
		}
		o.without[ref] = append(o.without[ref], f.Publication)
		o.portsAt, found = time.Now().Add(portRetry), true
	}
	return found
}

// rest lets a switch that nobody needs go on for a while, and then ends it.
func (o *owner) rest(ctx context.Context, config netswitch.Config) error {
	o.retryAt = time.Time{}
	if o.sw == nil {
		return nil
	}
	if o.told == nil || !reflect.DeepEqual(config, *o.told) {
		if err := o.apply(ctx, config); err != nil {
			return err
		}
	}
	if o.idle.IsZero() {
		o.idle = time.Now()
	}
	if time.Since(o.idle) < o.networks.opt.Linger {
		return nil
	}
	return o.end("nobody needs it")
}

func (o *owner) end(why string) error {
	if o.sw == nil {
		return nil
	}
	o.networks.opt.Log.Info("switch ends", "network", o.ref, "pid", o.sw.PID(), "why", why)
	return o.kill(false)
}

// close ends the switch if nobody needs it, and else lets go of it. The owner does not run any more.
func (o *owner) close() error {
	o.lock <- struct{}{}
	defer func() { <-o.lock }()
	if o.sw == nil {
		return nil
	}
	if config, known := o.networks.config(o.ref); !known || len(config.Endpoints) == 0 {
		return o.end("nobody needs it")
	}
	return o.sw.Close()
}

// counted takes note of what the switch counts.
func (o *owner) counted(s vm.Switch, stats netswitch.Stats) {
	var forged int64
	for _, e := range stats.Endpoints {
		forged += e.Forged
	}
	o.networks.mu.Lock()
	defer o.networks.mu.Unlock()
	if o.live == s { // else what it said before is counted already
		o.lastSaid = max(o.lastSaid, forged)
	}
}
