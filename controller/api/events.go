package api

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types"
	"github.com/moby/moby/api/types/events"
)

// events streams what happens to containers. The past is not kept: "since" begins with now at the earliest.
func (a *streamAPI) events(w http.ResponseWriter, r *http.Request) error {
	f, err := readFilters(r, "container", "daemon", "event", "image", "label", "network", "plugin", "scope", "type", "volume", "service", "node", "secret", "config")
	if err != nil {
		return err
	}
	until, err := parseTime(param(r, "until"), time.Now())
	if err != nil {
		return err
	}
	ctx, cancel := withTimeout(r.Context(), until)
	defer cancel()
	happenings := merge(ctx, a.containers.Events(ctx), a.networks.Events(ctx), a.volumes.Events(ctx))
	w.Header().Set("Content-Type", types.MediaTypeJSON)
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	if err := flush.Flush(); err != nil {
		return err
	}
	enc := json.NewEncoder(w)
	for m := range happenings {
		if !eventMatches(f, m) {
			continue
		}
		if err := enc.Encode(m); err != nil {
			return err
		}
		if err := flush.Flush(); err != nil {
			return err
		}
	}
	return nil
}

func eventMatches(f filters, m events.Message) bool {
	others := []string{"daemon", "plugin", "service", "node", "secret", "config"}
	if slices.ContainsFunc(others, func(kind string) bool { return len(f[kind]) > 0 }) {
		return false
	}
	return f.matchLabels(m.Actor.Attributes) &&
		f.match("type", func(v string) bool { return string(m.Type) == v }) &&
		f.match("scope", func(v string) bool { return m.Scope == v }) &&
		f.match("event", func(v string) bool { return string(m.Action) == v }) &&
		f.match("image", func(v string) bool { return m.Actor.Attributes["image"] == v }) &&
		f.match("volume", func(v string) bool { return m.Type == events.VolumeEventType && m.Actor.ID == v }) &&
		f.match("network", func(v string) bool {
			return m.Type == events.NetworkEventType && v != "" && (v == m.Actor.Attributes["name"] || strings.HasPrefix(m.Actor.ID, v))
		}) &&
		f.match("container", func(v string) bool {
			return v == m.Actor.Attributes["name"] || v != "" && strings.HasPrefix(m.Actor.ID, v)
		})
}

// merge yields what several channels do, until they have all ended, which they do with ctx.
func merge(ctx context.Context, sources ...<-chan events.Message) <-chan events.Message {
	out := make(chan events.Message)
	var all sync.WaitGroup
	for _, source := range sources {
		all.Go(func() {
			for m := range source {
				select {
				case out <- m:
				case <-ctx.Done():
				}
			}
		})
	}
	go func() {
		all.Wait()
		close(out)
	}()
	return out
}
