// Package feed tells those who listen what happens.
package feed

import (
	"context"
	"sync"

	"github.com/moby/moby/api/types/events"
)

// room is how many events wait for a reader that is slow; one that is slower misses some.
const room = 256

// Feed passes events on to readers. Its zero value has none.
type Feed struct {
	mu   sync.Mutex
	subs map[chan events.Message]struct{}
}

// Events yields what is sent from now on, until ctx ends; then the channel is closed.
func (f *Feed) Events(ctx context.Context) <-chan events.Message {
	sub := make(chan events.Message, room)
	f.mu.Lock()
	if f.subs == nil {
		f.subs = map[chan events.Message]struct{}{}
	}
	f.subs[sub] = struct{}{}
	f.mu.Unlock()
	context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.subs, sub)
		close(sub)
	})
	return sub
}

// Send passes an event on, and waits for nobody.
func (f *Feed) Send(m events.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for sub := range f.subs {
		select {
		case sub <- m:
		default:
		}
	}
}
