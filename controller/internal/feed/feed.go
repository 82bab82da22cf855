// Package feed tells those who listen what happens, and who asks what has happened lately. It has the events of the engine, in the order in
// which they were sent; nothing of it outlives the process.
package feed

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/moby/moby/api/types/events"
)

const (
	// kept is how many events can be asked for when they have happened: Docker's number (API reference, GET /events).
	kept = 256
	// room is how many events wait for a reader that is slow. One that is slower is told so, rather than left without some.
	room = 8192
)

// ErrSlow is that a reader does not read as fast as things happen.
var ErrSlow = errors.New("the client reads events more slowly than they happen: some are lost to it")

// Feed passes events on to readers, and keeps the last ones. Its zero value is empty; a nil one drops what it is sent.
type Feed struct {
	mu      sync.Mutex
	past    []events.Message // the last ones, at most twice as many as are kept
	readers map[*Reader]struct{}
}

// Send passes an event on, and waits for nobody. An event without a time happens now, and one without a scope is the engine's own.
func (f *Feed) Send(m events.Message) {
	if f == nil {
		return
	}
	if m.Scope == "" {
		m.Scope = "local"
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.TimeNano == 0 {
		now := time.Now()
		m.Time, m.TimeNano = now.Unix(), now.UnixNano()
	}
	if len(f.past) >= 2*kept {
		f.past = append([]events.Message(nil), f.past[len(f.past)-kept+1:]...)
	}
	f.past = append(f.past, m)
	for r := range f.readers {
		r.push(m)
	}
}

// Open returns the events of the past between two times, of those that are kept, and a reader of all that come from now on: none is in both,
// and none is missed between them. A zero time is no bound. The reader must be closed.
func (f *Feed) Open(since, until time.Time) (past []events.Message, r *Reader) {
	r = &Reader{f: f, wake: make(chan struct{}, 1)}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.past[max(0, len(f.past)-kept):] {
		if (since.IsZero() || m.TimeNano >= since.UnixNano()) && (until.IsZero() || m.TimeNano <= until.UnixNano()) {
			past = append(past, m)
		}
	}
	if f.readers == nil {
		f.readers = map[*Reader]struct{}{}
	}
	f.readers[r] = struct{}{}
	return past, r
}

// Reader reads a feed. It is for one goroutine.
type Reader struct {
	f    *Feed
	wake chan struct{} // has a token while there may be something to read

	mu    sync.Mutex
	queue []events.Message
	slow  bool // more was sent than there was room for
}

// push is called with the feed locked, so that all readers see one order.
func (r *Reader) push(m events.Message) {
	r.mu.Lock()
	if len(r.queue) < room && !r.slow {
		r.queue = append(r.queue, m)
	} else {
		r.slow = true
	}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Next waits for what comes next: one event, or those that have gathered. The error is ErrSlow, after all that there was room for has been
// read, or that of ctx.
func (r *Reader) Next(ctx context.Context) ([]events.Message, error) {
	for {
		r.mu.Lock()
		batch, slow := r.queue, r.slow
		r.queue = nil
		r.mu.Unlock()
		switch {
		case len(batch) > 0:
			return batch, nil
		case slow:
			return nil, ErrSlow
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Close ends the reader.
func (r *Reader) Close() {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	delete(r.f.readers, r)
}
