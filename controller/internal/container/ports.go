package container

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// publications are the ports of the host that lead to a container when it runs, by its ports' numbers. A binding without an address of
// the host is one for each family, next to each other.
func publications(c *container.Config, h *container.HostConfig) ([]hostapi.Publication, error) {
	bindings := maps.Clone(h.PortBindings)
	if bindings == nil {
		bindings = network.PortMap{}
	}
	if h.PublishAllPorts {
		for port := range c.ExposedPorts {
			if _, bound := bindings[port]; !bound {
				bindings[port] = nil
			}
		}
	}
	var all []hostapi.Publication
	for _, port := range slices.SortedFunc(maps.Keys(bindings), comparePorts) {
		to := bindings[port]
		if len(to) == 0 {
			to = []network.PortBinding{{}} // Docker: a port that the host chooses
		}
		for _, b := range to {
			some, err := publicationsOf(port, b)
			if err != nil {
				return nil, err
			}
			all = append(all, some...)
		}
	}
	if len(all) > hostapi.MaxPublication {
		return nil, invalid("%d published ports, at most %d are possible: an address of the host counts once for each family", len(all), hostapi.MaxPublication)
	}
	return all, nil
}

func comparePorts(a, b network.Port) int {
	return cmp.Or(cmp.Compare(a.Num(), b.Num()), cmp.Compare(a.Proto(), b.Proto()))
}

// publicationsOf is what one binding of a port asks for.
func publicationsOf(port network.Port, b network.PortBinding) ([]hostapi.Publication, error) {
	switch proto := port.Proto(); {
	case proto == network.SCTP:
		return nil, notImplemented("cannot publish port %s: sctp is not supported, only tcp and udp are", port)
	case proto != network.TCP && proto != network.UDP:
		return nil, invalid("invalid port specification: %q", port)
	case port.Num() == 0:
		return nil, invalid("invalid port specification: %q", port)
	case b.HostIP.Zone() != "":
		return nil, invalid("cannot publish port %s on %s: an address of the host with a zone is not supported", port, b.HostIP)
	}
	p := hostapi.Publication{Protocol: string(port.Proto()), Port: port.Num(), HostIP: b.HostIP.Unmap()}
	if b.HostPort != "" {
		ports, err := network.ParsePortRange(b.HostPort)
		if err != nil {
			return nil, invalid("invalid port specification: %q", b.HostPort)
		}
		p.HostPort = ports.Start()
		switch {
		case ports.End() != ports.Start() && ports.Start() == 0:
			return nil, invalid("invalid port specification: %q", b.HostPort)
		case ports.End() != ports.Start():
			p.HostPortEnd = ports.End()
		}
	}
	if p.HostIP.IsValid() {
		return []hostapi.Publication{p}, nil
	}
	four, six := p, p
	four.HostIP, six.HostIP = netip.IPv4Unspecified(), netip.IPv6Unspecified()
	return []hostapi.Publication{four, six}, nil
}

// Ports are a container's ports while it runs, and where the host publishes them; those with nothing are only exposed. One that does
// not run has none.
func (c *Container) Ports() network.PortMap {
	ports := network.PortMap{}
	if !c.Running() {
		return ports
	}
	for port := range c.Config.ExposedPorts {
		ports[port] = nil
	}
	for port := range c.HostConfig.PortBindings {
		ports[port] = nil
	}
	published, _ := hostapi.DecodePublished(cmp.Or(c.VM.Extra[hostapi.KeyPublished], c.VM.Extra[record.KeyPublished])) // a host that writes nonsense publishes nothing
	for _, p := range published {
		port, ok := network.PortFrom(p.Port, network.IPProtocol(p.Protocol))
		if !ok {
			continue
		}
		ports[port] = append(ports[port], network.PortBinding{HostIP: p.HostIP, HostPort: strconv.Itoa(int(p.HostPort))})
	}
	return ports
}
