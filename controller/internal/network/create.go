package network

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
)

// Create makes a network.
func (s *Service) Create(ctx context.Context, r network.CreateRequest) (Network, error) {
	a, err := ask(r, time.Now())
	if err != nil {
		return Network{}, err
	}
	routes, err := s.opt.Routes()
	if err != nil {
		return Network{}, err
	}
	ctx = context.WithoutCancel(ctx) // what is begun is ended, one way or the other
	if err := s.clearName(ctx, a.Network); err != nil {
		return Network{}, err
	}
	n, err := s.begin(ctx, a, routes)
	if err != nil {
		return Network{}, err
	}
	if err := s.realise(ctx, &n); err != nil {
		return Network{}, err
	}
	s.publish(n, events.ActionCreate)
	return n, nil
}

// clearName makes way for a new network: one of that name that an earlier try left half done goes. A port group that is not in the
// index is somebody else's, and stays.
func (s *Service) clearName(ctx context.Context, n Network) error {
	if left, ok := s.index.Read().named(n.Name); ok && left.Phase == "" {
		return errExists(n)
	} else if ok && s.claim(left.ID) {
		defer s.unclaim(left.ID)
		if err := s.drop(ctx, left); err != nil {
			return fmt.Errorf("cannot remove what is left of an earlier network %s: %w", n.Name, err)
		}
	}
	have, err := s.host.PortGroups(ctx)
	if err == nil && slices.Contains(have, n.PortGroup) {
		if _, ok := s.index.Read().named(n.Name); ok {
			return errExists(n) // someone makes it at this moment
		}
		err = errForeign(n)
	}
	return err
}

// errExists has Docker's words.
func errExists(n Network) error {
	return errdefs.ErrConflict.WithMessage("network with name " + n.Name + " already exists")
}

func errForeign(n Network) error {
	return errdefs.ErrConflict.WithMessage(fmt.Sprintf(
		"the host has a port group %s that is not of a network of containers: choose another name, or remove it there", n.PortGroup))
}

// begin enters a network into the index as one that is being made.
func (s *Service) begin(ctx context.Context, a asked, routes Routes) (n Network, err error) {
	s.claim(a.ID)
	err = s.index.Commit(ctx, func(x *index) error {
		if _, there := x.named(a.Name); there {
			return errExists(a.Network)
		}
		var err error
		if n, err = a.place(subnets(all(x)), routes); err != nil {
			return err
		}
		n.Phase = making
		x.Networks[n.ID] = n
		return nil
	})
	if err != nil {
		s.unclaim(a.ID)
	}
	return n, err
}

// realise makes on the host what the index says of a network, and then says in the index that it is there.
func (s *Service) realise(ctx context.Context, n *Network) error {
	defer s.unclaim(n.ID)
	err := s.host.AddPortGroup(ctx, n.PortGroup)
	if errdefs.IsAlreadyExists(err) {
		return errors.Join(errForeign(*n), s.forget(ctx, n.ID))
	}
	if err == nil {
		err = s.tell(ctx, n)
	}
	if err == nil {
		n.Phase = ""
		err = s.index.Commit(ctx, func(x *index) error { x.Networks[n.ID] = *n; return nil })
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot make network %s: %w", n.Name, err), s.drop(ctx, *n))
	}
	return nil
}

// drop removes a network that the index has marked: its port group, then its entry. Cards that are left there are of containers that
// did not run when it was marked, and have not been started since.
func (s *Service) drop(ctx context.Context, n Network) error {
	s.recard(ctx, n.ID, true)
	if err := s.host.RemovePortGroup(ctx, n.PortGroup); err != nil {
		return err
	}
	return s.forget(ctx, n.ID)
}

func (s *Service) forget(ctx context.Context, id string) error {
	return s.index.Commit(ctx, func(x *index) error { delete(x.Networks, id); return nil })
}

// claim makes a network one that is being changed, unless it is already; nobody uses it until unclaim.
func (s *Service) claim(id string) bool {
	s.uses.mu.Lock()
	defer s.uses.mu.Unlock()
	if s.uses.removing[id] {
		return false
	}
	s.uses.removing[id] = true
	return true
}

func (s *Service) unclaim(id string) {
	s.uses.mu.Lock()
	defer s.uses.mu.Unlock()
	delete(s.uses.removing, id)
}
