package container

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	dockernet "github.com/moby/moby/api/types/network"

	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/controller/internal/network"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Connect puts a container into a network, also while it runs: then its guest has a further interface when Connect returns. A machine
// that waits at its gate is ended; the container boots when it is started. The errors are Docker's.
func (s *Service) Connect(ctx context.Context, ref, to string, settings *dockernet.EndpointSettings) error {
	n, err := s.networks.Find(to)
	if err != nil {
		return err
	}
	if settings == nil {
		settings = &dockernet.EndpointSettings{}
	}
	if err := checkEndpoint(n.Name, settings); err != nil {
		return err
	}
	at := attachment{n, wish{n.Name, *settings.Copy()}}
	if err := s.checkLinks([]attachment{at}); err != nil {
		return err
	}
	return s.changeNetworks(ctx, ref, func(c Container) error {
		have := c.Endpoints()
		switch {
		case n.PortGroup == "" && len(have) > 0, len(have) == 0 && c.HostConfig.NetworkMode.IsNone():
			return errNone
		case n.PortGroup == "":
			return nil // none it is in already
		case in(have, n.ID) && c.Running():
			return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("endpoint with name %s already exists in network %s", c.Name, n.Name))
		case in(have, n.ID):
			return nil
		}
		further, release, err := s.networks.Reserve(have, at.want())
		if err != nil {
			return err
		}
		defer release()
		return s.setEndpoints(ctx, c, slices.Concat(have, further))
	})
}

// Disconnect takes a container out of a network, which is named by its name or ID and may be gone. The errors are Docker's.
func (s *Service) Disconnect(ctx context.Context, ref, from string) error {
	return s.changeNetworks(ctx, ref, func(c Container) error {
		have := c.Endpoints()
		i := slices.IndexFunc(have, func(e record.Endpoint) bool {
			return e.Network == from || from != "" && strings.HasPrefix(e.NetworkID, from)
		})
		if i < 0 {
			if _, err := s.networks.Find(from); err != nil {
				return err
			}
			return errdefs.ErrInternal.WithMessage(fmt.Sprintf("container %s is not connected to network %s", c.ID, from))
		}
		return s.setEndpoints(ctx, c, slices.Delete(slices.Clone(have), i, i+1))
	})
}

func in(endpoints []record.Endpoint, networkID string) bool {
	return slices.ContainsFunc(endpoints, func(e record.Endpoint) bool { return e.NetworkID == networkID })
}

// changeNetworks changes what a container is in its networks, while nobody starts it or does the same. It goes on when the client leaves.
func (s *Service) changeNetworks(ctx context.Context, ref string, change func(Container) error) error {
	c, err := s.Get(ref)
	if err != nil {
		return err
	}
	release, err := s.AcquireStart(ctx, c.ID)
	if err != nil {
		return err
	}
	defer release()
	if c, err = s.Get(c.ID); err != nil {
		return err
	}
	return change(c)
}

// setEndpoints gives a container other places in networks than it has: its cards, its record, what its host and its guest are told change in
// one operation of the host, and then a guest that runs does what it was told. Until it has, the VM is marked with
// record.KeyUnconfigured, for the next controller to see to if this one dies. What the guest does not take is undone.
func (s *Service) setEndpoints(ctx context.Context, c Container, endpoints []record.Endpoint) error {
	ctx = context.WithoutCancel(ctx)
	if c.Phase() == PhaseParked {
		if err := s.powerOff(c); err != nil {
			return err
		}
	}
	extra, err := s.networkKeys(&c, c.Name, endpoints)
	if err != nil {
		return err
	}
	running := c.Running()
	if running {
		extra[record.KeyUnconfigured] = "yes"
	}
	cards := vsphere.CardChange{From: network.Cards(c.Endpoints()), To: network.Cards(endpoints)}
	if err := s.host.Change(ctx, c.VM.Ref, vsphere.Change{Extra: extra, Cards: cards}); err != nil {
		return PortTaken(c.ID, c.Name, endpoints, err)
	}
	if !running {
		return nil
	}
	err = s.configure(ctx, &c, endpoints)
	if err == nil {
		return s.host.Reconfigure(ctx, c.VM.Ref, map[string]string{record.KeyUnconfigured: ""})
	}
	if now, ok := s.host.Get(c.ID); !ok || isOff(now) {
		return nil // it has ended, and its next start takes the network as it is now
	}
	back := map[string]string{} // the mark stays: who knows what the guest did of it
	for key := range extra {
		if key != record.KeyUnconfigured {
			back[key] = c.VM.Extra[key]
		}
	}
	undone := s.host.Change(ctx, c.VM.Ref, vsphere.Change{Extra: back, Cards: vsphere.CardChange{From: cards.To, To: cards.From}})
	return errors.Join(guest.Failed(err, "change the network of %s", &c), undone)
}

// networkKeys are the keys of extraConfig that depend on what a container is in its networks.
func (s *Service) networkKeys(c *Container, name string, endpoints []record.Endpoint) (map[string]string, error) {
	networks, err := record.EncodeNetworks(endpoints)
	if err != nil {
		return nil, err
	}
	net, err := s.HostNet(c.ID, name, &c.Container, endpoints)
	if err != nil {
		return nil, err
	}
	rec := c.Container
	rec.Files = c.CopiedFiles()
	spec, err := s.encodeSpec(c.ID, &rec, endpoints)
	if err != nil {
		return nil, err
	}
	return map[string]string{record.KeyNetworks: networks, hostapi.KeyNet: net, link.KeySpec: spec}, nil
}

// configure has the guest of a container that runs make its network what it is to be.
func (s *Service) configure(ctx context.Context, c *Container, endpoints []record.Endpoint) error {
	spec, err := tetherSpec(c.ID, &c.Container, endpoints, s.networks.Nameservers(endpoints))
	if err != nil {
		return err
	}
	spec.Hosts = append(spec.Hosts, s.linked(endpoints)...)
	return s.calls.Call(ctx, c.VM.Ref, func(ctx context.Context, t tetherv1.TetherService) error {
		_, err := t.Configure(ctx, &tetherv1.ConfigureRequest{Interfaces: spec.GetInterfaces(), Hosts: spec.GetHosts(), Resolver: spec.GetResolver()})
		return err
	})
}

// configureLeft finishes the changes of networks that an earlier controller began: guests that run are told.
func (s *Service) configureLeft(ctx context.Context) {
	for _, c := range s.All() {
		if c.VM.Extra[record.KeyUnconfigured] == "" {
			continue
		}
		err := s.changeNetworks(ctx, c.ID, func(c Container) error {
			if c.Running() {
				if err := s.configure(ctx, &c, c.Endpoints()); err != nil {
					return err
				}
			}
			return s.host.Reconfigure(ctx, c.VM.Ref, map[string]string{record.KeyUnconfigured: ""})
		})
		if err != nil && !errdefs.IsNotFound(err) {
			s.log.Warn("cannot finish a change of a container's network", "container", c.ID, "err", err)
		}
	}
}
