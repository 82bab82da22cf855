package volume

import (
	"strconv"
	"time"

	"github.com/moby/moby/api/types/events"
)

// Message is an event of a volume.
func Message(action events.Action, name string, attributes map[string]string, now time.Time) events.Message {
	return events.Message{
		Type: events.VolumeEventType, Action: action, Scope: "local", Actor: events.Actor{ID: name, Attributes: attributes},
		Time: now.Unix(), TimeNano: now.UnixNano(),
	}
}

func (s *Service) tell(action events.Action, name string) {
	s.feed.Send(Message(action, name, map[string]string{"driver": Driver}, time.Now()))
}

func (s *Service) tellPruned(bytes uint64) {
	s.feed.Send(Message(events.ActionPrune, "", map[string]string{"reclaimed": strconv.FormatUint(bytes, 10)}, time.Now()))
}
