package container

import (
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/containervm/containervm/controller/internal/feed"
	"github.com/containervm/containervm/controller/internal/network"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/volume"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Tell tells that someone does something to a container which its VM does not show, with Docker's attributes beside its labels, image and
// name; more may be nil. It is told after all that the inventory has shown until now: that a container was stopped, after its death.
func (s *Service) Tell(c *Container, action events.Action, more map[string]string) {
	s.teller.tell(s.host.Seq(), message(c, action, more, time.Now()))
}

// teller sends what is told to the feed, in order with what follows from changes of VMs.
type teller struct {
	feed *feed.Feed

	mu   sync.Mutex
	on   bool   // someone calls seen
	told uint64 // number of the last change of which everything has been told
	late []late // by number: what belongs behind changes that are still to be told
}

type late struct {
	seq uint64
	m   events.Message
}

// tell sends an event once all changes up to a number have been told.
func (t *teller) tell(seq uint64, m events.Message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.on && t.told < seq {
		t.late = append(t.late, late{seq, m})
		return
	}
	t.feed.Send(m)
}

// begin says that changes after a number will be told by seen.
func (t *teller) begin(seq uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.on, t.told = true, seq
}

// seen sends what a change means, and what waited for it.
func (t *teller) seen(seq uint64, happened []events.Message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range happened {
		t.feed.Send(m)
	}
	t.told = max(t.told, seq)
	for len(t.late) > 0 && t.late[0].seq <= t.told {
		t.feed.Send(t.late[0].m)
		t.late = t.late[1:]
	}
}

// end says that no more changes will be told.
func (t *teller) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.on = false
	for _, l := range t.late {
		t.feed.Send(l.m)
	}
	t.late = nil
}

// eventsOf says what a change of a container means in Docker's terms; nil: it was not, or is no more. A start and a death belong to a run:
// each is told once for it, also when the change holds the whole run.
func eventsOf(before, after *Container, now time.Time) []events.Message {
	var out []events.Message
	add := func(c *Container, action events.Action, more map[string]string) {
		out = append(out, message(c, action, more, now))
	}
	switch {
	case before == nil && after == nil:
	case before == nil:
		add(after, events.ActionCreate, nil)
	case after == nil:
		add(before, events.ActionDestroy, nil)
	default:
		if after.Name != before.Name {
			add(after, events.ActionRename, map[string]string{"oldName": "/" + before.Name})
		}
		if after.BegunSince(before) {
			out = append(out, networkEvents(after, nil, after.Endpoints(), now)...)
			out = append(out, mountEvents(after, events.ActionMount, now)...)
			add(after, events.ActionStart, nil)
		}
		if after.goneSince(before) {
			if before.Paused() { // it went on, and ended at once
				add(after, events.ActionUnPause, nil)
			}
			if after.OOMKilled() {
				add(after, events.ActionOOM, nil)
			}
			add(after, events.ActionDie, map[string]string{"exitCode": strconv.Itoa(after.ExitCode()), "execDuration": after.ranSeconds()})
			out = append(out, networkEvents(after, before.Endpoints(), nil, now)...)
			out = append(out, mountEvents(after, events.ActionUnmount, now)...)
		}
		if before.Running() && after.Running() && after.Run == before.Run {
			if action, changed := pauseEvent(before, after); changed {
				add(after, action, nil)
			}
			if status := after.HealthStatus(); status != before.HealthStatus() {
				add(after, events.ActionHealthStatus+events.Action(": "+status), nil)
			}
			out = append(out, networkEvents(after, before.Endpoints(), after.Endpoints(), now)...)
		}
	}
	return out
}

// pauseEvent is what a container was that is paused now, or is not any more.
func pauseEvent(before, after *Container) (action events.Action, changed bool) {
	if after.Paused() {
		return events.ActionPause, !before.Paused()
	}
	return events.ActionUnPause, before.Paused()
}

// networkEvents tell that a container that runs is no more in networks, or is in them.
func networkEvents(c *Container, from, to []record.Endpoint, now time.Time) (out []events.Message) {
	add := func(action events.Action, all, but []record.Endpoint) {
		for _, e := range all {
			if !slices.ContainsFunc(but, func(other record.Endpoint) bool { return other.ID == e.ID }) {
				out = append(out, network.Message(action, e.NetworkID, e.Network, map[string]string{"container": c.ID}, now))
			}
		}
	}
	add(events.ActionDisconnect, from, to)
	add(events.ActionConnect, to, from)
	return out
}

// mountEvents tell that the volumes of a container are mounted, or not any more.
func mountEvents(c *Container, action events.Action, now time.Time) (out []events.Message) {
	for _, m := range c.Mounts {
		if m.Volume == "" {
			continue
		}
		attributes := map[string]string{"driver": volume.Driver, "container": c.ID}
		if action == events.ActionMount {
			attributes["destination"], attributes["propagation"] = m.Target, ""
			attributes["read/write"] = strconv.FormatBool(!m.ReadOnly)
		}
		out = append(out, volume.Message(action, m.Volume, attributes, now))
	}
	return out
}

// ranSeconds is how long the process of the last run ran, in whole seconds.
func (c *Container) ranSeconds() string {
	if c.StartedAt().IsZero() || c.FinishedAt().IsZero() {
		return "0"
	}
	return strconv.FormatInt(int64(max(0, c.FinishedAt().Sub(c.StartedAt()))/time.Second), 10)
}

func message(c *Container, action events.Action, more map[string]string, now time.Time) events.Message {
	attributes := map[string]string{}
	maps.Copy(attributes, c.Config.Labels)
	attributes["image"], attributes["name"] = c.Config.Image, c.Name
	maps.Copy(attributes, more)
	return events.Message{
		Type: events.ContainerEventType, Action: action, Scope: "local",
		Actor: events.Actor{ID: c.ID, Attributes: attributes},
		Time:  now.Unix(), TimeNano: now.UnixNano(),
	}
}

// OOMKilled reports whether the guest's kernel ended the process for lack of memory.
func (c *Container) OOMKilled() bool {
	return c.Status.GetState() == tetherv1.State_EXITED && c.Status.GetExit().GetOomKilled()
}
