package feed

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/moby/moby/api/types/events"
)

func at(n int) events.Message {
	return events.Message{Action: events.Action(strconv.Itoa(n)), Time: int64(n), TimeNano: int64(n) * 1e9}
}

// read reads n events that have been sent already.
func read(t *testing.T, r *Reader, n int) (all []events.Message) {
	t.Helper()
	for len(all) < n {
		batch, err := r.Next(t.Context())
		if err != nil {
			t.Fatalf("after %d of %d events: %v", len(all), n, err)
		}
		all = append(all, batch...)
	}
	return all
}

// TestFeed: who listens hears what is sent, in order; who does not read stops nobody and is told of its loss; who has left hears nothing.
func TestFeed(t *testing.T) {
	var f Feed
	f.Send(events.Message{Action: "before"})
	_, reader := f.Open(time.Time{}, time.Time{})
	_, sleeper := f.Open(time.Time{}, time.Time{})
	for n := range 2 * room {
		f.Send(at(n + 1))
		if got := read(t, reader, 1); len(got) != 1 || got[0].Time != int64(n+1) {
			t.Fatalf("heard %+v, want %d", got, n+1)
		}
	}
	if got := read(t, sleeper, room); len(got) != room || got[room-1].Time != room {
		t.Errorf("%d events waited for who did not read, up to %v; want the first %d", len(got), got[len(got)-1].Time, room)
	}
	if _, err := sleeper.Next(t.Context()); !errors.Is(err, ErrSlow) {
		t.Errorf("who lost events is told %v", err)
	}
	reader.Close()
	f.Send(events.Message{Action: "after"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := reader.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("after its end a reader hears %v, %v", got, err)
	}
}

// TestPast: the last 256 events can be asked for, with and without bounds, both of which belong to what they bound.
func TestPast(t *testing.T) {
	var f Feed
	if past, _ := f.Open(time.Time{}, time.Time{}); len(past) != 0 {
		t.Errorf("an empty feed has %v", past)
	}
	const sent = 5*kept + 7
	for n := range sent {
		f.Send(at(n + 1))
	}
	for _, c := range []struct{ since, until, first, last int64 }{
		{0, 0, sent - kept + 1, sent}, {1, 0, sent - kept + 1, sent}, {sent - 2, 0, sent - 2, sent}, {0, sent - 3, sent - kept + 1, sent - 3},
		{sent - 5, sent - 4, sent - 5, sent - 4},
	} {
		bound := func(n int64) time.Time {
			if n == 0 {
				return time.Time{}
			}
			return time.Unix(n, 0)
		}
		past, r := f.Open(bound(c.since), bound(c.until))
		r.Close()
		if len(past) != int(c.last-c.first+1) || past[0].Time != c.first || past[len(past)-1].Time != c.last {
			t.Errorf("from %d until %d: %d events, %d to %d; want %d to %d", c.since, c.until, len(past), past[0].Time, past[len(past)-1].Time, c.first, c.last)
		}
	}
	if past, _ := f.Open(time.Unix(sent+1, 0), time.Time{}); len(past) != 0 {
		t.Errorf("since the future: %v", past)
	}
}

// TestSendFills: an event gets the time and the scope that it lacks; without a feed it goes nowhere.
func TestSendFills(t *testing.T) {
	var f Feed
	f.Send(events.Message{})
	past, _ := f.Open(time.Time{}, time.Time{})
	if m := past[0]; m.Scope != "local" || m.TimeNano == 0 || m.Time != m.TimeNano/1e9 {
		t.Errorf("%+v", m)
	}
	var none *Feed
	none.Send(events.Message{})
}
