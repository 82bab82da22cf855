package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"github.com/containervm/containervm/controller/internal/feed"
	"github.com/containervm/containervm/controller/internal/indexfile"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// Host is what networks need of a vSphere host: *vsphere.Client. To remove a port group that is gone is no error.
type Host interface {
	indexfile.Files
	VMs() []vsphere.VM
	Change(ctx context.Context, vm vsphere.Ref, change vsphere.Change) error
	Has(extension string) bool
	DefaultNetwork() string
	PortGroups(ctx context.Context) ([]string, error)
	AddPortGroup(ctx context.Context, name string) error
	RemovePortGroup(ctx context.Context, name string) error
	SetNetwork(ctx context.Context, name string, settings hostapi.NetworkSettings) error
}

// Options say what a host's networks are like; the zero value is usual.
type Options struct {
	// Bridge is the subnet of the default network when it is made; zero: the first of Docker's default ones that is free.
	Bridge netip.Prefix
	// Resolvers are the name servers of containers on a host whose switches answer no names.
	Resolvers []netip.Addr
	// Routes tells which networks containers are to reach, so that no network of theirs hides one; nil: those of this machine.
	Routes func() (Routes, error)
}

// Service is the networks of one host. It is the only writer of their index, and of the port groups in it. Its methods may be called
// by several goroutines. Errors have the class (package errdefs) and the words that Docker's clients expect.
type Service struct {
	host  Host
	opt   Options
	log   *slog.Logger
	index *indexfile.File[index]
	uses  *uses
	feed  feed.Feed
}

// New opens the networks of a host: it removes what an earlier controller left half made or half removed, makes port groups again
// that someone has removed, and tells the host the settings of all. What fails for one network is logged.
func New(ctx context.Context, host Host, opt Options, log *slog.Logger) (*Service, error) {
	if opt.Routes == nil {
		opt.Routes = routesHere
	}
	s := &Service{host: host, opt: opt, log: log, index: indexfile.New(host, indexFormat()), uses: newUses()}
	if err := s.open(ctx); err != nil {
		return nil, fmt.Errorf("cannot open the networks: %w", err)
	}
	s.clear(ctx)
	if err := s.restore(ctx); err != nil {
		return nil, fmt.Errorf("cannot open the networks: %w", err)
	}
	return s, nil
}

// open reads the index, or makes one, and has the default network in it.
func (s *Service) open(ctx context.Context) error {
	err := s.index.Open(ctx)
	if errdefs.IsNotFound(err) {
		err = s.index.Create(ctx)
	}
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", indexPath, err)
	}
	if have := s.index.Read().bridge(); have.ID != "" && have.PortGroup == s.host.DefaultNetwork() {
		return nil
	}
	routes, err := s.opt.Routes()
	if err != nil {
		return err
	}
	return s.index.Commit(ctx, func(x *index) error {
		n := x.bridge()
		if n.ID == "" {
			a := asked{Network: bridge(time.Now())}
			if p := s.opt.Bridge; p.IsValid() {
				a.IPv4.Subnet = p.Masked()
				a.IPv4.Gateway = a.IPv4.firstUsable()
				routes = Routes{} // it was asked for
				if err := a.IPv4.check(); err != nil {
					return fmt.Errorf("cannot use the subnet of the default network: %w", err)
				}
			}
			if n, err = a.place(subnets(all(x)), routes); err != nil {
				return err
			}
		}
		n.PortGroup = s.host.DefaultNetwork()
		x.Networks[n.ID] = n
		return nil
	})
}

// bridge is the default network without its addresses.
func bridge(now time.Time) Network {
	return Network{
		ID: fixedID(network.NetworkBridge), Name: network.NetworkBridge, Driver: DriverBridge, Created: now.UTC(),
		Options: map[string]string{bridgeOption + "default_bridge": "true"},
	}
}

func all(x *index) []Network {
	var out []Network
	for _, n := range x.Networks {
		out = append(out, n)
	}
	return out
}

// clear finishes what an earlier controller left half done: such networks are no more.
func (s *Service) clear(ctx context.Context) {
	for _, n := range s.index.Read().Networks {
		if n.Phase == "" {
			continue
		}
		s.log.Info("removing a network that was left half made or half removed", "network", n.Name, "phase", n.Phase)
		if err := s.drop(ctx, n); err != nil {
			s.log.Error("cannot remove a network that was left half done", "network", n.Name, "err", err)
		}
	}
}

// restore makes port groups again that are missing, and tells the host the settings of all networks.
func (s *Service) restore(ctx context.Context) error {
	have, err := s.host.PortGroups(ctx)
	if err != nil {
		return err
	}
	for _, n := range s.index.Read().ready() {
		if !slices.Contains(have, n.PortGroup) && n.Name != network.NetworkBridge {
			s.log.Warn("the port group of a network is missing: making it again", "network", n.Name, "portGroup", n.PortGroup)
			if err := s.host.AddPortGroup(ctx, n.PortGroup); err != nil && !errdefs.IsAlreadyExists(err) {
				s.log.Error("cannot make the port group of a network", "network", n.Name, "err", err)
				continue
			}
		}
		if err := s.tell(ctx, &n); err != nil {
			s.log.Error("cannot tell the host a network's settings", "network", n.Name, "err", err)
		}
	}
	return nil
}

// tell gives the host's switch its settings, if the host has one.
func (s *Service) tell(ctx context.Context, n *Network) error {
	if !s.host.Has(hostapi.ExtensionNetworks) {
		return nil
	}
	return s.host.SetNetwork(ctx, n.PortGroup, n.Settings())
}

// All returns all networks, the newest last.
func (s *Service) All() []Network {
	all := append(s.index.Read().ready(), none())
	slices.SortFunc(all, func(a, b Network) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return all
}

// Warnings says what endpoints lack on a host of another kind than ours, for the answer to who makes a container.
func (s *Service) Warnings(endpoints []record.Endpoint) []string {
	if len(endpoints) == 0 || s.host.Has(hostapi.ExtensionNetworks) {
		return nil
	}
	why := "names of containers are not resolved"
	if len(s.opt.Resolvers) == 0 {
		why = "no names are resolved (start the controller with --resolver)"
	}
	return []string{"The host has no switches of containerVM: its network must lead out by the gateway itself, and " + why + "."}
}

// Bridge is the default network.
func (s *Service) Bridge() Network { return s.index.Read().bridge() }

// Find finds a network by ID, name or unique prefix of its ID, in this order; the default network also by an empty name.
func (s *Service) Find(ref string) (Network, error) {
	s.uses.mu.Lock()
	defer s.uses.mu.Unlock()
	return s.find(ref)
}

// find is Find. The caller holds the lock of uses.
func (s *Service) find(ref string) (Network, error) {
	if ref == "" || ref == network.NetworkDefault {
		return s.Bridge(), nil
	}
	var byPrefix []Network
	var byName *Network
	for _, n := range s.All() {
		switch {
		case s.uses.removing[n.ID]:
		case n.ID == ref:
			return n, nil
		case n.Name == ref:
			byName = &n
		case strings.HasPrefix(n.ID, ref):
			byPrefix = append(byPrefix, n)
		}
	}
	switch {
	case byName != nil:
		return *byName, nil
	case len(byPrefix) == 1:
		return byPrefix[0], nil
	case len(byPrefix) > 1:
		return Network{}, invalid("network %s is ambiguous (%d matches found based on ID prefix)", ref, len(byPrefix))
	default:
		return Network{}, errdefs.ErrNotFound.WithMessage("network " + ref + " not found")
	}
}

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
