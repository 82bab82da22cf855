package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types"
	"github.com/moby/moby/api/types/events"

	"github.com/containervm/containervm/controller/internal/feed"
)

// eventsAPI tells what happens.
type eventsAPI struct{ feed *feed.Feed }

func (a *eventsAPI) routes(r *router) {
	r.handle("GET /events", a.events)
}

// events streams what has happened lately, if a time is asked for, and what happens. A client that reads too slowly has its connection broken
// off: an answer that ends as others do would say that it has everything.
func (a *eventsAPI) events(w http.ResponseWriter, r *http.Request) error {
	q, err := readEventQuery(r, time.Now())
	if err != nil {
		return err
	}
	ctx, cancel := withTimeout(r.Context(), q.until)
	defer cancel()
	past, reader := a.feed.Open(q.since, q.until)
	defer reader.Close()
	if !q.history {
		past = nil
	}
	w.Header().Set("Content-Type", types.MediaTypeJSON)
	w.WriteHeader(http.StatusOK)
	out := &eventWriter{filters: q.filters, enc: json.NewEncoder(w), old: !atLeast(r.Context(), "1.52")}
	out.enc.SetEscapeHTML(false)
	flush := http.NewResponseController(w)
	for batch := past; ; {
		if err := out.write(batch); err != nil {
			return err
		}
		if err := flush.Flush(); err != nil {
			return err
		}
		if batch, err = reader.Next(ctx); err != nil {
			if errors.Is(err, feed.ErrSlow) {
				panic(http.ErrAbortHandler)
			}
			return ignoreEnd(err)
		}
	}
}

// ignoreEnd is nil for the error of a context that has ended: that is how a stream without an end of its own ends.
func ignoreEnd(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// eventQuery is what a client asks of events.
type eventQuery struct {
	filters      filters
	since, until time.Time // zero: not given
	history      bool      // also what has happened
}

// eventActors are the filters that name what has an ID and a name, and go by the beginning of either.
func eventActors() []string {
	return []string{"config", "container", "daemon", "network", "node", "plugin", "secret", "service", "volume"}
}

func readEventQuery(r *http.Request, now time.Time) (q eventQuery, err error) {
	if q.filters, err = readFilters(r); err != nil {
		return q, err
	}
	since, until := param(r, "since"), param(r, "until")
	if q.since, err = parseTime(since, now); err != nil {
		return q, err
	}
	if q.until, err = parseTime(until, now); err != nil {
		return q, err
	}
	if !q.until.IsZero() && q.until.Before(q.since) {
		return q, invalid("`since` time (%s) cannot be after `until` time (%s)", since, until)
	}
	q.history = !q.since.IsZero() || !q.until.IsZero()
	return q, nil
}

// eventWriter writes events as a version of the API has them.
type eventWriter struct {
	filters filters
	enc     *json.Encoder
	old     bool // with the fields that version 1.52 has no more
}

// oldEvent has what events of containers and images had beside until version 1.52 (API version history).
type oldEvent struct {
	Status string `json:"status,omitempty"`
	ID     string `json:"id,omitempty"`
	From   string `json:"from,omitempty"`
	events.Message
}

func (w *eventWriter) write(batch []events.Message) error {
	for _, m := range batch {
		if !eventMatches(w.filters, m) {
			continue
		}
		var v any = m
		if w.old {
			v = withOldFields(m)
		}
		if err := w.enc.Encode(v); err != nil {
			return err
		}
	}
	return nil
}

func withOldFields(m events.Message) any {
	switch m.Type {
	case events.ContainerEventType:
		return oldEvent{Status: string(m.Action), ID: m.Actor.ID, From: m.Actor.Attributes["image"], Message: m}
	case events.ImageEventType:
		return oldEvent{Status: string(m.Action), ID: m.Actor.ID, Message: m}
	default:
		return m
	}
}

// eventMatches goes by Docker's rules: an event passes when for each name one of the values fits.
func eventMatches(f filters, m events.Message) bool {
	for _, kind := range eventActors() {
		if !f.match(kind, func(v string) bool {
			return strings.HasPrefix(m.Actor.ID, v) || strings.HasPrefix(m.Actor.Attributes["name"], v)
		}) {
			return false
		}
	}
	return f.matchLabels(m.Actor.Attributes) &&
		f.match("type", func(v string) bool { return string(m.Type) == v }) &&
		f.match("scope", func(v string) bool { return m.Scope == v }) &&
		f.match("event", func(v string) bool { return eventIs(m.Action, v) }) &&
		f.match("image", func(v string) bool { return eventOfImage(m, v) })
}

// eventIs reports whether an action is the one that is asked for: one with something behind it, as in "exec_start: ls", by what stands
// before the colon too.
func eventIs(action events.Action, want string) bool {
	first, _, _ := strings.Cut(string(action), ":")
	return string(action) == want || first == want
}

// eventOfImage reports whether an event is that of an image, or of a container made of it, with or without a tag.
func eventOfImage(m events.Message, want string) bool {
	name := m.Actor.Attributes["image"]
	if m.Type == events.ImageEventType {
		name = m.Actor.Attributes["name"]
	}
	return m.Actor.ID == want || name == want || withoutTag(m.Actor.ID) == want || withoutTag(name) == want
}

// withoutTag is a reference's name as people write it; the text itself when it is none.
func withoutTag(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return reference.FamiliarName(named)
}
