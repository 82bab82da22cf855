package container

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/controller/internal/record"
)

// restartsAtOnce bounds how many containers are brought up by their policy at the same time: after the start of a host all of them are due at once.
const restartsAtOnce = 4

// restarter restarts containers by their policy. It is part of Run's goroutine, which alone touches it; each restart has a goroutine of its own
// while it lasts.
type restarter struct {
	s     *Service
	due   map[string]planned // by container ID
	busy  map[string]bool    // restarts in flight
	done  chan restartEnd
	timer *time.Timer // fires when the next is due
}

// planned is a restart that is to come.
type planned struct {
	when  time.Time
	delay time.Duration // that it waits
	// revival: the engine has started anew, and finds a container that is to run as this says. Who starts or stops it changes that.
	revival *record.Restart
}

// restartEnd is a restart that has ended.
type restartEnd struct {
	id    string
	plan  planned
	again bool // the host could not be asked, or goes down
}

func newRestarter(s *Service) *restarter {
	r := &restarter{
		s: s, due: map[string]planned{}, busy: map[string]bool{},
		done: make(chan restartEnd), timer: time.NewTimer(0),
	}
	if !r.timer.Stop() {
		<-r.timer.C
	}
	return r
}

// revive has a container started at once that its policy wants to run, and that ended while no controller ran or before.
func (r *restarter) revive(c Container) {
	if c.wantsRevival() {
		r.plan(c.ID, planned{when: time.Now(), revival: &c.restart})
	}
}

// consider plans the restart of a container whose run has ended, or drops it.
func (r *restarter) consider(c Container) {
	if r.busy[c.ID] {
		return // its end looks again
	}
	plan, is := r.due[c.ID]
	switch {
	case is && plan.wanted(&c):
	case c.Restarting():
		delay := c.nextRestart().Delay
		r.plan(c.ID, planned{when: time.Now().Add(delay), delay: delay})
	case is:
		r.forget(c.ID)
	}
}

// wanted reports whether a container is still one for which the restart was planned.
func (p planned) wanted(c *Container) bool {
	if p.revival != nil {
		return c.wantsRevival() && c.restart == *p.revival
	}
	return c.Restarting()
}

func (r *restarter) forget(id string) {
	delete(r.due, id)
	r.wind()
}

func (r *restarter) plan(id string, p planned) {
	r.due[id] = p
	r.wind()
}

// wind sets the timer to the next restart.
func (r *restarter) wind() {
	r.timer.Stop()
	var next time.Time
	for _, p := range r.due {
		if next.IsZero() || p.when.Before(next) {
			next = p.when
		}
	}
	if !next.IsZero() && len(r.busy) < restartsAtOnce {
		r.timer.Reset(max(0, time.Until(next)))
	}
}

// begin begins the restarts that are due.
func (r *restarter) begin(ctx context.Context) {
	now := time.Now()
	for id, plan := range r.due {
		if plan.when.After(now) || len(r.busy) >= restartsAtOnce {
			continue
		}
		delete(r.due, id)
		r.busy[id] = true
		go func() { r.done <- restartEnd{id, plan, r.s.restart(ctx, id, plan)} }()
	}
	r.wind()
}

// ended takes note of the end of a restart.
func (r *restarter) ended(e restartEnd) {
	delete(r.busy, e.id)
	vm, ok := r.s.host.Get(e.id)
	if c, err := Parse(vm); ok && err == nil {
		if e.again {
			e.plan.delay = min(max(2*e.plan.delay, restartFirst), restartMost)
			e.plan.when = time.Now().Add(e.plan.delay)
			r.due[e.id] = e.plan
		}
		r.consider(c)
	}
	r.wind()
}

// restart starts a container that its policy wants to run, unless someone else did, has stopped it or removes it. As in Docker it is the last
// one if the container cannot be started; it is to be tried again when the host could not be asked, or has no room.
func (s *Service) restart(ctx context.Context, id string, plan planned) (again bool) {
	op, err := s.starts.acquire(ctx, id, toRestart)
	if err != nil {
		return false
	}
	defer op.release()
	c, err := s.Get(id)
	if err != nil || !plan.wanted(&c) {
		return false
	}
	if s.closing.Load() {
		return true // it may stay after all
	}
	stop := context.AfterFunc(ctx, func() { op.breakOff(context.Canceled) }) // the machine that comes up is the next controller's
	defer stop()
	next := c.nextRestart()
	if plan.revival != nil {
		next = record.Restart{} // counted anew, as in Docker
	}
	err = s.bring(ctx, op, c, time.Now(), next)
	switch {
	case err == nil, errors.Is(err, errAbandoned), errdefs.IsNotFound(err), ctx.Err() != nil:
		return false
	case unasked(err):
		s.log.Warn("cannot restart a container now", "container", c.ID, "err", err)
		return true
	}
	s.log.Warn("a container cannot be restarted, and is left as it is", "container", c.ID, "err", err)
	next.Count, next.Over = c.restart.Count+1, true
	if err := s.setRestart(context.WithoutCancel(ctx), c, next); err != nil {
		s.log.Warn("cannot write that a container is not restarted any more", "container", c.ID, "err", err)
	}
	return false
}

// unasked reports whether an error says nothing of the container: its host could not be reached, or has no room for it now.
func unasked(err error) bool {
	var network net.Error
	return errors.As(err, &network) || errdefs.IsUnavailable(err) || errdefs.IsResourceExhausted(err)
}

// setRestart writes how a container's restart policy stands.
func (s *Service) setRestart(ctx context.Context, c Container, r record.Restart) error {
	if c.restart == r {
		return nil
	}
	return s.host.Reconfigure(ctx, c.VM.Ref, map[string]string{record.KeyRestart: r.Encode()})
}

// stopRestarts says of a container with a restart policy that someone has stopped it, before it ends. A restart in flight is broken off.
func (s *Service) stopRestarts(ctx context.Context, id string) (Container, error) {
	op, err := s.starts.acquire(ctx, id, toStop)
	if err != nil {
		return Container{}, err
	}
	defer op.release()
	c, err := s.Get(id)
	if err != nil || s.closing.Load() || !c.hasPolicy() {
		return c, err
	}
	r := c.restart
	r.Stopped = true
	return c, s.setRestart(ctx, c, r)
}

// GoingDown says that the host is about to be shut down, or is not any more. Containers that are stopped meanwhile were not stopped by someone:
// their policies have them started when the host is there again. None is restarted until then.
func (s *Service) GoingDown(going bool) { s.closing.Store(going) }
