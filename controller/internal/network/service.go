package network

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
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
	// Feed is told what happens; nil: nobody is.
	Feed *feed.Feed
}

// Service is the networks of one host. It is the only writer of their index, and of the port groups in it. Its methods may be called
// by several goroutines. Errors have the class (package errdefs) and the words that Docker's clients expect.
type Service struct {
	host  Host
	opt   Options
	log   *slog.Logger
	index *indexfile.File[index]
	uses  *uses
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
