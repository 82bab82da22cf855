package main

import (
	"log/slog"
	"sync"
	"time"

	"github.com/containervm/containervm/tether/internal/guestinfo"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

const (
	// maxMarks bounds a timeline: a machine that is forked again and again begins anew each time.
	maxMarks = 64
	// latePhase is how long a fork may stay in a phase before the host is told of it: telling costs a fork more than most phases.
	latePhase = time.Second
)

// progress is what the tether tells of itself: its phase, the status of the main process, and the timeline. Only the tether's own
// goroutine changes it. The agent and the timer of a late phase read it, so it has a lock.
type progress struct {
	late *time.Timer // tells the host of a phase that a fork stays in

	mu       sync.Mutex
	reporter *guestinfo.Reporter // nil until the host is found
	phase    string
	status   *tetherv1.Status
	forked   bool // this machine is a fork
	points   []point
}

// point has a time of the monotonic clock: the wall clock is set on the way.
type point struct {
	name string
	at   time.Time
}

func newProgress() *progress {
	p := &progress{status: &tetherv1.Status{}}
	p.late = time.AfterFunc(time.Hour, p.tellPhase)
	p.late.Stop()
	return p
}

// tellTo names the host's reporter.
func (p *progress) tellTo(r *guestinfo.Reporter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reporter = r
}

// enter begins a phase. The host and the console are told at once in a machine that boots, and late in a fork.
func (p *progress) enter(name string, console *slog.Logger) {
	p.mu.Lock()
	p.phase = name
	p.markLocked(name)
	forked := p.forked
	if !forked {
		p.tellPhaseLocked()
	}
	p.mu.Unlock()
	if forked {
		p.late.Reset(latePhase)
		console.Debug(name)
		return
	}
	console.Info(name)
}

// stay enters a phase that a fork may stay in for long. The host is told at once.
func (p *progress) stay(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.late.Stop()
	p.phase = name
	p.tellPhaseLocked()
}

// tellPhase tells the host in which phase the machine is.
func (p *progress) tellPhase() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tellPhaseLocked()
}

func (p *progress) tellPhaseLocked() {
	if p.reporter != nil {
		p.reporter.Set(link.KeyPhase, p.phase)
	}
}

// mark adds a point to the timeline.
func (p *progress) mark(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.markLocked(name)
}

func (p *progress) markLocked(name string) {
	if len(p.points) < maxMarks {
		p.points = append(p.points, point{name, time.Now()})
	}
}

// fork says that the machine is a fork: its timeline begins anew.
func (p *progress) fork() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forked = true
	p.points = append(p.points[:0], point{"forked", time.Now()})
}

// setStatus tells the host of the main process. It owns s from then on.
func (p *progress) setStatus(s *tetherv1.Status) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.Marks = p.marksLocked()
	p.status = s
	text, err := link.EncodeStatus(s)
	if err == nil {
		p.reporter.Set(link.KeyStatus, text)
	}
	return err
}

// marksLocked are the points by the wall clock as it is now.
func (p *progress) marksLocked() []*tetherv1.Mark {
	now := time.Now()
	wall := now.UnixNano()
	marks := make([]*tetherv1.Mark, len(p.points))
	for i, at := range p.points {
		marks[i] = &tetherv1.Mark{Name: at.name, UnixNano: wall - now.Sub(at.at).Nanoseconds()}
	}
	return marks
}

// Phase is the present phase, for the agent.
func (p *progress) Phase() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.phase
}

// Status is that of the main process, for the agent. Nobody changes it.
func (p *progress) Status() *tetherv1.Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}
