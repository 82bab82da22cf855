package container

import (
	"maps"
	"regexp"
	"slices"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// wish is a network that a client names, by its name or ID, and what the container is to be there.
type wish struct {
	network  string
	settings network.EndpointSettings
}

// wishes are the networks that a container is to be in; none: it has no network. The first is that of its network mode. It changes the
// mode "default" to what it stands for.
func wishes(c *container.Config, h *container.HostConfig, conf *network.NetworkingConfig) ([]wish, error) {
	var endpoints map[string]*network.EndpointSettings
	if conf != nil {
		endpoints = maps.Clone(conf.EndpointsConfig)
	}
	if h.NetworkMode == "" || h.NetworkMode.IsDefault() {
		h.NetworkMode = network.NetworkBridge
		if e, ok := endpoints[network.NetworkDefault]; ok {
			delete(endpoints, network.NetworkDefault)
			endpoints[network.NetworkBridge] = e
		}
	}
	if err := checkMode(h.NetworkMode); err != nil {
		return nil, err
	}
	mode := string(h.NetworkMode)
	if len(endpoints) == 0 {
		endpoints = map[string]*network.EndpointSettings{mode: {}}
	}
	for name, e := range endpoints {
		if err := checkEndpoint(name, e); err != nil {
			return nil, err
		}
	}
	_, none := endpoints[network.NetworkNone]
	switch {
	case c.NetworkDisabled:
		return nil, nil
	case len(endpoints) == 1 && none:
		return nil, nil
	case none || h.NetworkMode.IsNone():
		return nil, errNone
	case len(endpoints) > hostapi.MaxCards:
		return nil, invalid("%d networks, at most %d are possible: a containerVM has so many network cards", len(endpoints), hostapi.MaxCards)
	}
	names := slices.Sorted(maps.Keys(endpoints))
	if i := slices.Index(names, mode); i > 0 {
		names = slices.Insert(slices.Delete(names, i, i+1), 0, mode)
	}
	all := make([]wish, len(names))
	for i, name := range names {
		all[i] = wish{name, *endpoints[name].Copy()}
	}
	return all, addLinks(h, all)
}

// checkMode refuses the network modes that a machine of its own cannot have.
func checkMode(mode container.NetworkMode) error {
	switch {
	case mode.IsContainer():
		return notImplemented("network mode %s is not supported: a containerVM has its own kernel and network cards: put both containers on one network, where each finds the other by its name", mode)
	case mode == network.NetworkHost:
		return notImplemented("network mode host is not supported: a containerVM has its own kernel and network cards: publish ports (-p), and reach the host by --add-host NAME:host-gateway")
	}
	return nil
}

// checkEndpoint refuses what a client cannot ask of its place in a network.
func checkEndpoint(name string, e *network.EndpointSettings) error {
	if e == nil {
		return invalid("invalid config for network %s: EndpointsConfig is nil", name)
	}
	refuse := func(format string, args ...any) error {
		return invalid("invalid config for network "+name+": invalid endpoint settings:\n"+format, args...)
	}
	ipam := e.IPAMConfig
	if ipam == nil {
		ipam = &network.EndpointIPAMConfig{}
	}
	predefined := !container.NetworkMode(name).IsUserDefined()
	four, six := ipam.IPv4Address, ipam.IPv6Address
	switch {
	case predefined && (four.IsValid() || six.IsValid()):
		return refuse("user-specified IP address is supported on user-defined networks only")
	case predefined && len(e.Aliases) > 0:
		return refuse("network-scoped aliases are only supported for user-defined networks")
	case four.IsValid() && (!four.Unmap().Is4() || four.IsUnspecified()):
		return refuse("invalid IPv4 address: %s", four)
	case six.IsValid() && (!six.Is6() || six.Is4In6() || six.IsUnspecified() || six.Zone() != ""):
		return refuse("invalid IPv6 address: %s", six)
	}
	for _, key := range slices.Sorted(maps.Keys(e.DriverOpts)) {
		if key != optionInterface {
			return notImplemented("the driver option %s of an endpoint is not supported", key)
		}
		if !interfaceName.MatchString(e.DriverOpts[key]) {
			return refuse("%s %q is no name of an interface: must be 1 to 15 of a-z, 0-9, '.', '_', '-'", key, e.DriverOpts[key])
		}
	}
	if mac := e.MacAddress; len(mac) > 0 && (len(mac) != 6 || mac[0]&1 != 0) {
		return refuse("invalid MAC address %s: must be six bytes, and not one of a group", mac)
	}
	return nil
}

var errNone = invalid("container cannot be connected to multiple networks with one of the networks in private (none) mode")

// optionInterface is the driver option of an endpoint that names the container's interface.
const optionInterface = "com.docker.network.endpoint.ifname"

// interfaceName is what an interface may be called (Linux: IFNAMSIZ 16).
var interfaceName = regexp.MustCompile(`^[a-z][a-z0-9._-]{0,14}$`)
