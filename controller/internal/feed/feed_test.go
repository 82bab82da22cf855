package feed

import (
	"context"
	"testing"

	"github.com/moby/moby/api/types/events"
)

// TestFeed: who listens hears what is sent, in order; who does not read stops nobody; who has left hears nothing.
func TestFeed(t *testing.T) {
	var f Feed
	f.Send(events.Message{Action: "before"})
	ctx, leave := context.WithCancel(t.Context())
	reader, sleeper := f.Events(ctx), f.Events(t.Context())
	for range 2 * room {
		f.Send(events.Message{Action: "x"})
		if m := <-reader; m.Action != "x" {
			t.Fatalf("heard %q", m.Action)
		}
	}
	if len(sleeper) != room {
		t.Errorf("%d wait for who does not read, want %d", len(sleeper), room)
	}
	leave()
	for range reader { // ends
		t.Error("heard something that was not sent")
	}
	f.Send(events.Message{Action: "after"})
}
