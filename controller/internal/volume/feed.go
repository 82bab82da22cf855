package volume

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/moby/moby/api/types/events"
)

// feedRoom is how many events wait for a reader that is slow; one that is slower misses some.
const feedRoom = 256

// feed tells those who listen what happens to volumes.
type feed struct {
	mu   sync.Mutex
	subs map[chan events.Message]struct{}
}

// Events yields what happens to volumes from now on, until ctx ends; then the channel is closed. Their mounts are told with the containers'.
func (s *Service) Events(ctx context.Context) <-chan events.Message {
	f, sub := &s.feed, make(chan events.Message, feedRoom)
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

// Message is an event of a volume.
func Message(action events.Action, name string, attributes map[string]string, now time.Time) events.Message {
	return events.Message{
		Type: events.VolumeEventType, Action: action, Scope: "local", Actor: events.Actor{ID: name, Attributes: attributes},
		Time: now.Unix(), TimeNano: now.UnixNano(),
	}
}

func (f *feed) tell(action events.Action, name string) {
	f.send(Message(action, name, map[string]string{"driver": Driver}, time.Now()))
}

func (f *feed) pruned(bytes uint64) {
	f.send(Message(events.ActionPrune, "", map[string]string{"reclaimed": strconv.FormatUint(bytes, 10)}, time.Now()))
}

func (f *feed) send(m events.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for sub := range f.subs {
		select {
		case sub <- m:
		default:
		}
	}
}
