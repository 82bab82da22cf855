package agent

import (
	"context"
	"sync"
	"time"

	"github.com/containervm/containervm/tether/link"
)

// meetWait is how long a call and its stream wait for each other.
const meetWait = 30 * time.Second

// meeting is where calls and the streams that they name find each other, whichever comes first. S is an end of a stream.
type meeting[S any] struct {
	what string        // the stream, for people
	wait time.Duration // see meetWait

	mu  sync.Mutex
	ids map[string]chan offer[S]
}

// offer is a stream on its way to its call, which says how it ended.
type offer[S any] struct {
	ctx    context.Context // of the stream: it ends when the host closes that
	stream S
	done   chan error // capacity 1
}

func newMeeting[S any](what string) *meeting[S] {
	return &meeting[S]{what: what, wait: meetWait, ids: map[string]chan offer[S]{}}
}

func (m *meeting[S]) at(id string) chan offer[S] {
	m.mu.Lock()
	defer m.mu.Unlock()
	ch, ok := m.ids[id]
	if !ok {
		ch = make(chan offer[S])
		m.ids[id] = ch
	}
	return ch
}

func (m *meeting[S]) forget(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.ids, id)
}

// offer gives the stream to the call of id and returns when that has ended, with its error: the host's end of the stream learns why no more
// comes of it.
func (m *meeting[S]) offer(ctx context.Context, id string, stream S) error {
	defer m.forget(id)
	o := offer[S]{ctx: ctx, stream: stream, done: make(chan error, 1)}
	wait, cancel := context.WithTimeout(ctx, m.wait)
	defer cancel()
	select {
	case m.at(id) <- o:
	case <-wait.Done():
		return unmet(ctx, "nobody asked for the %s %s", m.what, id)
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		return link.Refuse(ctx.Err(), "%v", ctx.Err())
	}
}

// take waits for the stream of id and calls f with it and its context.
func (m *meeting[S]) take(ctx context.Context, id string, f func(context.Context, S) error) (err error) {
	defer m.forget(id)
	wait, cancel := context.WithTimeout(ctx, m.wait)
	defer cancel()
	select {
	case o := <-m.at(id):
		defer func() { o.done <- err }()
		return f(o.ctx, o.stream)
	case <-wait.Done():
		return unmet(ctx, "the %s %s did not come", m.what, id)
	}
}

// unmet says why a call and its stream did not find each other: the caller has ended, or the other side did not come.
func unmet(ctx context.Context, format string, args ...any) error {
	if ctx.Err() != nil {
		return link.Refuse(ctx.Err(), "%v", ctx.Err())
	}
	return link.Refuse(context.DeadlineExceeded, format, args...)
}
