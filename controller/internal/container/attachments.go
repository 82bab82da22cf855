package container

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	dockernet "github.com/moby/moby/api/types/network"

	"github.com/containervm/containervm/controller/internal/network"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// attachment is a network that exists, and what a container is to be there.
type attachment struct {
	network network.Network
	wish    wish
}

// attachments are the networks that a container is to be in, by the slots of its cards. It refuses what the host or a network would, as far as
// that is known before a machine exists. A network that does not exist is the request's fault and not, as class errdefs.ErrNotFound would
// tell Docker's clients, a missing image that they can pull.
func (s *Service) attachments(ctx context.Context, req Request) ([]attachment, error) {
	all, err := wishes(req.Config, req.HostConfig, req.Networking)
	if err != nil {
		return nil, err
	}
	var attached []attachment
	for _, w := range all {
		n, err := s.networks.Find(w.network)
		if errdefs.IsNotFound(err) {
			return nil, invalid("%v", err)
		}
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(attached, func(p attachment) bool { return p.network.ID == n.ID }) {
			return nil, invalid("network %s is named twice", n.Name)
		}
		if n.PortGroup == "" && len(all) > 1 {
			return nil, errNone
		}
		if n.PortGroup != "" {
			attached = append(attached, attachment{n, w})
		}
	}
	if _, err := publications(req.Config, req.HostConfig); err != nil {
		return nil, err
	}
	if err := s.checkLinks(attached); err != nil {
		return nil, err
	}
	return attached, s.checkHostGateway(ctx, req, attached)
}

// checkHostGateway refuses a way to the host that the host does not allow.
func (s *Service) checkHostGateway(ctx context.Context, req Request, attached []attachment) error {
	for _, e := range req.HostConfig.ExtraHosts {
		if _, _, err := hostEntry(e); err != nil {
			return err
		}
	}
	if !wantsHostGateway(req.HostConfig) {
		return nil
	}
	if len(attached) == 0 {
		return invalid("unable to derive the IP value for host-gateway: the container has no network")
	}
	all, err := s.host.HostNetworks(ctx)
	if err == nil && len(all.HostGateway) == 0 {
		return invalid("host-gateway is not allowed: containers do not reach their host, unless it lets them, port by port: cvm up --host-gateway PORTS")
	}
	return err
}

// reserve gets a container its addresses, once. own is what its machine is in networks already: it stays where it is to be anyway, and
// the MAC address of a card that goes to another network stays too, because a machine that runs cannot change it.
func (s *Service) reserve(p *plan, own []record.Endpoint) error {
	p.release()
	for slot, at := range p.attachments {
		var had record.Endpoint
		if slot < len(own) && own[slot].Slot == slot {
			had = own[slot]
		}
		want := at.want()
		if had.NetworkID == at.network.ID && !want.IPv4.IsValid() && !want.IPv6.IsValid() {
			had.Wish = want.Wish
			p.endpoints = append(p.endpoints, had)
			continue
		}
		want.CardMAC = had.MAC
		got, release, err := s.networks.Reserve(p.endpoints, want)
		if err != nil {
			p.release()
			return err
		}
		got[0].Wish = at.want().Wish
		p.endpoints, p.reserved = append(p.endpoints, got[0]), append(p.reserved, release)
	}
	return nil
}

// release ends the reservations. What a VM has by then is its own.
func (p *plan) release() {
	for _, release := range p.reserved {
		release()
	}
	p.endpoints, p.reserved = nil, nil
}

// want is what is asked of the network, as it is shown again.
func (p attachment) want() network.Want {
	c := p.wish.settings
	w := network.Want{Network: p.network.ID, Wish: record.Wish{Aliases: c.Aliases, Links: c.Links, DriverOpts: c.DriverOpts, GwPriority: c.GwPriority}}
	if c.IPAMConfig != nil {
		w.IPv4, w.IPv6 = c.IPAMConfig.IPv4Address.Unmap(), c.IPAMConfig.IPv6Address
	}
	if len(c.MacAddress) > 0 {
		w.MAC = c.MacAddress.String()
	}
	return w
}

// ReserveLike reserves a place in each of a container's networks for another one that has its cards, with addresses of its own. Aliases
// are names of the container, and not the other's.
func (s *Service) ReserveLike(c *Container) (endpoints []record.Endpoint, release func(), err error) {
	var wants []network.Want
	like := c.Endpoints()
	for _, e := range like {
		wants = append(wants, network.Want{Network: e.NetworkID, Wish: record.Wish{DriverOpts: e.Wish.DriverOpts, GwPriority: e.Wish.GwPriority}})
	}
	endpoints, release, err = s.networks.Reserve(nil, wants...)
	for i := range endpoints {
		endpoints[i].Slot = like[i].Slot
	}
	return endpoints, release, err
}

// Endpoints are what a container is in its networks, by the slots of its cards.
func (c *Container) Endpoints() []record.Endpoint {
	all, _ := record.DecodeNetworks(c.VM.Extra[record.KeyNetworks]) // nonsense that someone wrote there counts as nothing
	slices.SortFunc(all, func(a, b record.Endpoint) int { return a.Slot - b.Slot })
	return all
}

// Networks are a container's networks by name, as Docker's API shows them.
func (c *Container) Networks() map[string]*dockernet.EndpointSettings {
	all := map[string]*dockernet.EndpointSettings{}
	for _, e := range c.Endpoints() {
		all[e.Network] = network.Docker(c.who(), &e)
	}
	if len(all) == 0 && (c.HostConfig.NetworkMode.IsNone() || c.Config.NetworkDisabled) {
		all[dockernet.NetworkNone] = &dockernet.EndpointSettings{NetworkID: network.NoneID()}
	}
	return all
}

// who is the container as its networks know it.
func (c *Container) who() network.Who {
	return network.Who{ID: c.ID, Name: c.Name, Hostname: c.Config.Hostname}
}

// WantedMAC is the MAC address that was asked for in the network of the container's mode; empty: none was.
func (c *Container) WantedMAC() string {
	for _, e := range c.Endpoints() {
		if mode := string(c.HostConfig.NetworkMode); e.Network == mode || e.NetworkID == mode {
			return e.Wish.MAC
		}
	}
	return ""
}

// HostNet is the value of hostapi.KeyNet for a container: what its host is to know of it while it runs. Empty: nothing, because it is in no
// network, or its host does not ask.
func (s *Service) HostNet(id, name string, rec *record.Container, endpoints []record.Endpoint) (string, error) {
	if len(endpoints) == 0 || !s.host.Has(hostapi.ExtensionNetworks) {
		return "", nil
	}
	ports, err := publications(&rec.Config, &rec.HostConfig)
	if err != nil {
		return "", err
	}
	n := hostapi.Net{
		Endpoints:   network.HostEndpoints(network.Who{ID: id, Name: name, Hostname: rec.Config.Hostname}, endpoints),
		HostGateway: wantsHostGateway(&rec.HostConfig),
	}
	if in := wayIn(endpoints); in != "" {
		for i := range ports {
			ports[i].Network = in
		}
		n.Publish = ports
	}
	text, err := n.Encode()
	if err != nil {
		return "", fmt.Errorf("cannot tell the host the network of a container: %w", err)
	}
	return text, nil
}

// wayIn is the port group in which a container's ports are published: the one of its default route, of IPv4 if it has one. Empty:
// nothing leads out of its networks, or into them.
func wayIn(endpoints []record.Endpoint) string {
	var slot uint32
	for _, i := range network.Interfaces(endpoints) {
		if i.Gateway != "" || i.Gateway6 != "" && slot == 0 {
			slot = i.Slot
		}
	}
	for _, e := range endpoints {
		if uint32(e.Slot)+1 == slot {
			return e.PortGroup
		}
	}
	return ""
}

// interfaces is what a tether is told of the container's place in networks.
func interfaces(endpoints []record.Endpoint) []*tetherv1.Interface {
	all := network.Interfaces(endpoints)
	for _, i := range all {
		for _, e := range endpoints {
			if uint32(e.Slot)+1 == i.Slot {
				i.Name = e.Wish.DriverOpts[optionInterface]
			}
		}
	}
	return all
}

// gateways lead out of a container's networks: one of each family at most.
func gateways(endpoints []record.Endpoint) []string {
	var four, six []string
	for _, i := range network.Interfaces(endpoints) {
		if i.Gateway != "" {
			four = append(four, i.Gateway)
		}
		if i.Gateway6 != "" {
			six = append(six, i.Gateway6)
		}
	}
	return append(four, six...)
}
