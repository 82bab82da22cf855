package network

import (
	"maps"
	"time"

	"github.com/moby/moby/api/types/events"
)

// Message is an event of a network, with Docker's attributes; more may be nil.
func Message(action events.Action, id, name string, more map[string]string, now time.Time) events.Message {
	attributes := map[string]string{"name": name, "type": DriverBridge}
	maps.Copy(attributes, more)
	return message(action, events.Actor{ID: id, Attributes: attributes}, now)
}

func message(action events.Action, actor events.Actor, now time.Time) events.Message {
	return events.Message{
		Type: events.NetworkEventType, Action: action, Scope: ScopeLocal, Actor: actor, Time: now.Unix(), TimeNano: now.UnixNano(),
	}
}

// pruned is the event of the end of a prune: a network takes no space.
func pruned(now time.Time) events.Message {
	return message(events.ActionPrune, events.Actor{Attributes: map[string]string{"reclaimed": "0"}}, now)
}

func (s *Service) publish(n Network, action events.Action) {
	s.opt.Feed.Send(Message(action, n.ID, n.Name, nil, time.Now()))
}
