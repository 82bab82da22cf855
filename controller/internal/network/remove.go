package network

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// User is a container that has an endpoint in a network.
type User struct {
	Who
	VM       vsphere.Ref
	Running  bool
	Endpoint record.Endpoint // in that network
}

// Users tells which containers have endpoints in the network with an ID.
type Users func(networkID string) []User

// Remove removes a network. It is refused while a container that runs is in it, or one is about to be; as in Docker, one that does not
// run hinders nobody: it loses its card there, and cannot be started until it is disconnected from the network that is gone.
func (s *Service) Remove(ctx context.Context, ref string, users Users) error {
	n, err := s.Find(ref)
	if err != nil {
		return err
	}
	return s.remove(context.WithoutCancel(ctx), n, users)
}

func (s *Service) remove(ctx context.Context, n Network, users Users) error {
	if n.Predefined() {
		return errdefs.ErrPermissionDenied.WithMessage(n.Name + " is a pre-defined network and cannot be removed")
	}
	if err := s.claimUnused(n); err != nil {
		return err
	}
	defer s.unclaim(n.ID)
	all := users(n.ID)
	if err := active(n, all); err != nil {
		return err
	}
	if err := s.mark(ctx, n.ID, removing); err != nil {
		return err
	}
	s.unplug(ctx, all)
	if err := s.host.RemovePortGroup(ctx, n.PortGroup); err != nil {
		s.plug(ctx, all)
		return errors.Join(fmt.Errorf("error while removing network: %w", err), s.mark(ctx, n.ID, ""))
	}
	if err := s.forget(ctx, n.ID); err != nil {
		return err
	}
	s.publish(n, events.ActionDestroy)
	return nil
}

// claimUnused claims a network that no operation in flight needs.
func (s *Service) claimUnused(n Network) error {
	u := s.uses
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.removing[n.ID]:
		return errdefs.ErrNotFound.WithMessage("network " + n.Name + " not found")
	case u.held[n.ID] > 0 || len(u.reserved[n.ID]) > 0:
		return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf(
			"error while removing network: network %s has active endpoints: a container is being made or started there", n.Name))
	}
	u.removing[n.ID] = true
	return nil
}

// active is the error, in Docker's words, of a network in which containers run.
func active(n Network, users []User) error {
	var names []string
	for _, user := range users {
		if user.Running {
			names = append(names, fmt.Sprintf("name:%q id:%q", user.Name, user.Endpoint.ID[:min(shortID, len(user.Endpoint.ID))]))
		}
	}
	if len(names) == 0 {
		return nil
	}
	return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf(
		"error while removing network: network %s has active endpoints (%s)", n.Name, strings.Join(names, ", ")))
}

// mark says in the index how far a network is made.
func (s *Service) mark(ctx context.Context, id string, phase phase) error {
	return s.index.Commit(ctx, func(x *index) error {
		n, ok := x.Networks[id]
		if !ok {
			return errdefs.ErrNotFound.WithMessage("network " + id + " not found")
		}
		n.Phase = phase
		x.Networks[id] = n
		return nil
	})
}

// unplug takes the cards of containers that do not run out of a network. What they are in it (hostapi.KeyNet) goes with them: their next
// start fails, or says it anew. One that fails is only logged: it may have been done before, and where a card is left the host does not
// remove the network.
func (s *Service) unplug(ctx context.Context, users []User) {
	for _, user := range users {
		s.recard(ctx, user, vsphere.Change{
			Extra: map[string]string{hostapi.KeyNet: ""}, Cards: vsphere.CardChange{From: Cards([]record.Endpoint{user.Endpoint})},
		})
	}
}

// plug gives containers that do not run their cards again.
func (s *Service) plug(ctx context.Context, users []User) {
	for _, user := range users {
		s.recard(ctx, user, vsphere.Change{Cards: vsphere.CardChange{To: Cards([]record.Endpoint{user.Endpoint})}})
	}
}

func (s *Service) recard(ctx context.Context, user User, change vsphere.Change) {
	if err := s.host.Change(ctx, user.VM, change); err != nil && !errdefs.IsNotFound(err) {
		s.log.Warn("cannot change the card of a container in a network that is removed", "vm", user.VM.Value, "network", user.Endpoint.Network, "err", err)
	}
}

// Prune removes the networks that fit and in which no container runs, and returns their names.
func (s *Service) Prune(ctx context.Context, fits func(Network) bool, users Users) ([]string, error) {
	var names []string
	for _, n := range s.All() {
		if n.Predefined() || !fits(n) || active(n, users(n.ID)) != nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return names, err
		}
		if err := s.remove(context.WithoutCancel(ctx), n, users); err != nil {
			s.log.Warn("cannot prune a network", "network", n.Name, "err", err)
			continue
		}
		names = append(names, n.Name)
	}
	s.feed.Send(pruned(time.Now()))
	return names, nil
}
