package network

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

// Containers are those of the host: *container.Service.
type Containers interface {
	// NetworkUsers tells which have endpoints in the network with an ID.
	NetworkUsers(networkID string) []User
	// AcquireStart keeps others from starting a container, and from changing its networks, until release is called.
	AcquireStart(ctx context.Context, id string) (release func(), err error)
}

// Remove removes a network. It is refused while a container that runs is in it, or one is about to be; as in Docker, one that does not
// run hinders nobody: it loses its card there, and cannot be started until it is disconnected from the network that is gone.
func (s *Service) Remove(ctx context.Context, ref string, containers Containers) error {
	n, err := s.Find(ref)
	if err != nil {
		return err
	}
	return s.remove(context.WithoutCancel(ctx), n, containers)
}

func (s *Service) remove(ctx context.Context, n Network, containers Containers) error {
	if n.Predefined() {
		return errdefs.ErrPermissionDenied.WithMessage(n.Name + " is a pre-defined network and cannot be removed")
	}
	if err := s.claimUnused(n); err != nil {
		return err
	}
	defer s.unclaim(n.ID)
	all := containers.NetworkUsers(n.ID)
	if err := active(n, all); err != nil {
		return err
	}
	if err := s.mark(ctx, n.ID, removing); err != nil {
		return err
	}
	free, err := acquireAll(ctx, containers, all)
	if err != nil {
		return errors.Join(err, s.mark(ctx, n.ID, ""))
	}
	defer free()
	s.recard(ctx, n.ID, true)
	if err := s.host.RemovePortGroup(ctx, n.PortGroup); err != nil {
		s.recard(ctx, n.ID, false)
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

// acquireAll keeps others from changing containers that do not run.
func acquireAll(ctx context.Context, containers Containers, users []User) (release func(), err error) {
	users = slices.Clone(users)
	slices.SortFunc(users, func(a, b User) int { return strings.Compare(a.ID, b.ID) }) // who removes another network waits in the same order
	var releases []func()
	release = func() {
		for _, r := range releases {
			r()
		}
	}
	for _, user := range users {
		r, err := containers.AcquireStart(ctx, user.ID)
		if err != nil {
			release()
			return nil, err
		}
		releases = append(releases, r)
	}
	return release, nil
}

// recard takes the cards in a network from those that have them, or gives them back, and says so in their records. What they are in it
// (hostapi.KeyNet) goes with the cards: their next start fails, or says it anew. What fails is only logged: where a card is left the host
// does not remove the network.
func (s *Service) recard(ctx context.Context, networkID string, unplugged bool) {
	for _, vm := range s.host.VMs() {
		endpoints, err := record.DecodeNetworks(vm.Extra[record.KeyNetworks])
		if err != nil {
			continue // said by eachEndpoint
		}
		before := Cards(endpoints)
		for i := range endpoints {
			if endpoints[i].NetworkID == networkID {
				endpoints[i].Unplugged = unplugged
			}
		}
		change := vsphere.Change{Cards: vsphere.CardChange{From: before, To: Cards(endpoints)}}
		if len(change.Cards.From) == len(change.Cards.To) {
			continue
		}
		text, err := record.EncodeNetworks(endpoints)
		change.Extra = map[string]string{record.KeyNetworks: text, hostapi.KeyNet: ""}
		if err == nil {
			err = s.host.Change(ctx, vm.Ref, change)
		}
		if err != nil && !errdefs.IsNotFound(err) {
			s.log.Warn("cannot change the card of a machine in a network that is removed", "vm", vm.Name, "network", networkID, "err", err)
		}
	}
}

// Prune removes the networks that fit and in which no container runs, and returns their names.
func (s *Service) Prune(ctx context.Context, fits func(Network) bool, containers Containers) ([]string, error) {
	var names []string
	for _, n := range s.All() {
		if n.Predefined() || !fits(n) || active(n, containers.NetworkUsers(n.ID)) != nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return names, err
		}
		if err := s.remove(context.WithoutCancel(ctx), n, containers); err != nil {
			s.log.Warn("cannot prune a network", "network", n.Name, "err", err)
			continue
		}
		names = append(names, n.Name)
	}
	s.opt.Feed.Send(pruned(time.Now()))
	return names, nil
}
