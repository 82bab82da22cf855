// Package health checks how a container is, by a process beside its own, again and again: Docker's health checks, run where the container is.
package health

import (
	"cmp"
	"context"
	"time"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// What a Health that leaves it open gets: Docker's values.
const (
	usualInterval      = 30 * time.Second
	usualTimeout       = 30 * time.Second
	usualStartInterval = 5 * time.Second
	usualRetries       = 3
)

const (
	// maxResults is how many results are told, the last ones.
	maxResults = 5
	// pace is the shortest time between two reports: a host answers 50 requests of a guest in a second, and writes down each change.
	pace = 500 * time.Millisecond
)

// Check makes one check, and ends it with ctx. It returns nil when there was none, since the container is paused or ends.
type Check func(ctx context.Context) *tetherv1.HealthResult

// Monitor checks one container. Run is its goroutine; the other methods may be called by any.
type Monitor struct {
	spec    *tetherv1.Health
	check   Check
	tell    func(*tetherv1.HealthStatus)
	started time.Time

	rests chan bool
	again chan struct{} // capacity 1: tell anew
	done  chan struct{} // closed when Run has ended
}

// New returns a monitor of a container whose process has just been started. tell must not wait; it is called at the beginning, and
// when a check has ended, though not more often than the host can bear.
func New(spec *tetherv1.Health, check Check, tell func(*tetherv1.HealthStatus)) *Monitor {
	return &Monitor{
		spec: spec, check: check, tell: tell, started: time.Now(),
		rests: make(chan bool), again: make(chan struct{}, 1), done: make(chan struct{}),
	}
}

// Rest has checks rest, or go on one interval later. A check that runs is ended, and does not count.
func (m *Monitor) Rest(on bool) {
	select {
	case m.rests <- on:
	case <-m.done:
	}
}

// Tell tells again what is known: the host has forgotten it, or is another one.
func (m *Monitor) Tell() {
	select {
	case m.again <- struct{}{}:
	default:
	}
}

// Done is closed when Run has ended.
func (m *Monitor) Done() <-chan struct{} { return m.done }

// Run checks until ctx ends. A check that runs is told to end, and not waited for.
func (m *Monitor) Run(ctx context.Context) {
	defer close(m.done)
	l := &loop{Monitor: m, status: &tetherv1.HealthStatus{}, next: time.NewTimer(m.interval(tetherv1.HealthStatus_STARTING))}
	defer l.next.Stop()
	l.report()
	for ctx.Err() == nil {
		l.step(ctx)
	}
	if l.running != nil {
		l.end()
	}
	if l.late != nil {
		m.tell(l.status)
	}
}

// loop is the state of Run.
type loop struct {
	*Monitor
	status   *tetherv1.HealthStatus
	next     *time.Timer                 // of the next check; stopped while one runs, or they rest
	running  chan *tetherv1.HealthResult // has room for the result of the check that runs; nil: none does
	resting  bool
	end      context.CancelFunc // ends it
	reported time.Time          // when the status was told last
	late     <-chan time.Time   // the status has changed since, and is told then
}

func (l *loop) step(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-l.next.C:
		l.begin(ctx)
	case r := <-l.running:
		l.end()
		l.running = nil
		l.count(r)
		l.plan()
	case l.resting = <-l.rests:
		if l.resting && l.running != nil {
			l.end() // it has no result then
		}
		l.plan()
	case <-l.again:
		l.report()
	case <-l.late:
		l.report()
	}
}

// begin starts a check, which reports to running.
func (l *loop) begin(ctx context.Context) {
	ctx, l.end = context.WithTimeout(ctx, orElse(l.spec.Timeout, usualTimeout))
	running := make(chan *tetherv1.HealthResult, 1)
	l.running = running
	go func() { running <- l.check(ctx) }()
}

// plan has the next check come, unless one runs or they rest.
func (l *loop) plan() {
	l.next.Stop()
	if l.running == nil && !l.resting {
		l.next.Reset(l.interval(l.status.State))
	}
}

// count is what the result r makes of the container's health, by Docker's rules.
func (l *loop) count(r *tetherv1.HealthResult) {
	if r == nil {
		return
	}
	s := &tetherv1.HealthStatus{State: l.status.State, FailingStreak: l.status.FailingStreak}
	s.Results = append(append(s.Results, l.status.Results[max(0, len(l.status.Results)+1-maxResults):]...), r)
	switch {
	case r.ExitCode == 0:
		s.State, s.FailingStreak = tetherv1.HealthStatus_HEALTHY, 0
	case s.State == tetherv1.HealthStatus_STARTING && l.starting():
	default:
		if s.FailingStreak++; s.FailingStreak >= cmp.Or(l.spec.Retries, usualRetries) {
			s.State = tetherv1.HealthStatus_UNHEALTHY
		}
	}
	l.status = s
	if since := time.Since(l.reported); since >= pace {
		l.report()
	} else if l.late == nil {
		l.late = time.After(pace - since)
	}
}

func (l *loop) report() {
	l.reported, l.late = time.Now(), nil
	l.tell(l.status)
}

// starting reports whether the container is in its start period.
func (m *Monitor) starting() bool { return time.Since(m.started) < time.Duration(m.spec.StartPeriod) }

// interval is the time from now to the next check.
func (m *Monitor) interval(s tetherv1.HealthStatus_State) time.Duration {
	if s == tetherv1.HealthStatus_STARTING && m.starting() {
		return orElse(m.spec.StartInterval, usualStartInterval)
	}
	return orElse(m.spec.Interval, usualInterval)
}

// orElse is a time that a Health says, or the usual one.
func orElse(said int64, usual time.Duration) time.Duration {
	if said <= 0 {
		return usual
	}
	return time.Duration(said)
}
