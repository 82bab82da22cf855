package guestinfo

import (
	"context"
	"slices"
	"sync"
)

// Reporter sets keys without making its caller wait. Of several values for a key that wait to be sent only the newest
// is; keys are sent in the order in which they began to wait.
type Reporter struct {
	set  func(ctx context.Context, key, value string) error
	wake chan struct{} // capacity 1

	mu      sync.Mutex
	waiting []entry
	idle    chan struct{} // closed while nothing waits or is being sent
	err     error         // the last failure
}

type entry struct{ key, value string }

// NewReporter returns a reporter that sends by set. One goroutine must call Run.
func NewReporter(set func(ctx context.Context, key, value string) error) *Reporter {
	idle := make(chan struct{})
	close(idle)
	return &Reporter{set: set, wake: make(chan struct{}, 1), idle: idle}
}

// Set has key set to value soon.
func (r *Reporter) Set(key, value string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.waiting, func(e entry) bool { return e.key == key })
	if i >= 0 {
		r.waiting[i].value = value
		return
	}
	r.waiting = append(r.waiting, entry{key, value})
	select {
	case <-r.idle:
		r.idle = make(chan struct{})
	default:
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run sends until ctx ends.
func (r *Reporter) Run(ctx context.Context) {
	for {
		e, ok := r.next()
		if ok {
			err := r.set(ctx, e.key, e.value)
			r.mu.Lock()
			r.err = err
			r.mu.Unlock()
			continue
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return
		}
	}
}

func (r *Reporter) next() (entry, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) == 0 {
		select {
		case <-r.idle:
		default:
			close(r.idle)
		}
		return entry{}, false
	}
	e := r.waiting[0]
	r.waiting = r.waiting[1:]
	return e, true
}

// Flush waits until all is sent and returns the last failure.
func (r *Reporter) Flush(ctx context.Context) error {
	r.mu.Lock()
	idle := r.idle
	r.mu.Unlock()
	select {
	case <-idle:
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
