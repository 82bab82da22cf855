package main

import (
	"sync"
	"time"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// maxMarks bounds a timeline: a machine that is forked again and again begins anew each time.
const maxMarks = 64

// timeline is when the machine came to which point. The zero value is empty.
type timeline struct {
	mu     sync.Mutex
	points []point
}

// point has a time of the monotonic clock: the wall clock is set on the way.
type point struct {
	name string
	at   time.Time
}

func (l *timeline) mark(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.points) < maxMarks {
		l.points = append(l.points, point{name, time.Now()})
	}
}

// restart begins anew, at a fork.
func (l *timeline) restart(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.points = append(l.points[:0], point{name, time.Now()})
}

// marks are the points by the wall clock as it is now.
func (l *timeline) marks() []*tetherv1.Mark {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	wall := now.UnixNano()
	marks := make([]*tetherv1.Mark, len(l.points))
	for i, p := range l.points {
		marks[i] = &tetherv1.Mark{Name: p.name, UnixNano: wall - now.Sub(p.at).Nanoseconds()}
	}
	return marks
}
