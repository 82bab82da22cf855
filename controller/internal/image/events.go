package image

import (
	"maps"
	"strconv"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
)

// tell sends an event of an image with Docker's attributes: its labels, and a name, which is its ID where Docker has none.
func (s *Store) tell(action events.Action, img Image, actor, name string) {
	attributes := map[string]string{}
	maps.Copy(attributes, img.Config.Config.Labels)
	attributes["name"] = name
	s.feed.Send(events.Message{Type: events.ImageEventType, Action: action, Actor: events.Actor{ID: actor, Attributes: attributes}})
}

// tellOf is tell of the image that has an ID now, in Docker's words for what is done to an image rather than a name; of one that is gone
// there is nothing but the ID.
func (s *Store) tellOf(action events.Action, id digest.Digest) {
	img, _ := s.Resolve(id.String())
	s.tell(action, img, id.String(), id.String())
}

// tellTagged tells of names, canonical ones, that an image got.
func (s *Store) tellTagged(id digest.Digest, names ...string) {
	img, _ := s.Resolve(id.String())
	for _, name := range familiar(names) {
		s.tell(events.ActionTag, img, id.String(), name)
	}
}

// tellRemoved tells of the names that an image lost, and that it is gone itself.
func (s *Store) tellRemoved(img Image, gone []image.DeleteResponse) {
	for _, g := range gone {
		if g.Untagged != "" {
			s.tell(events.ActionUnTag, img, img.ID.String(), img.ID.String())
		}
	}
	for _, g := range gone {
		if g.Deleted != "" {
			s.tell(events.ActionDelete, Image{}, g.Deleted, g.Deleted)
		}
	}
}

// tellPruned is the event of the end of a prune.
func (s *Store) tellPruned(freed int64) {
	s.feed.Send(events.Message{Type: events.ImageEventType, Action: events.ActionPrune,
		Actor: events.Actor{Attributes: map[string]string{"reclaimed": strconv.FormatInt(freed, 10)}}})
}
