package container

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// endpointsIn is a configuration with a place in each of the named networks.
func endpointsIn(names ...string) *network.NetworkingConfig {
	conf := &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{}}
	for _, name := range names {
		conf.EndpointsConfig[name] = &network.EndpointSettings{}
	}
	return conf
}

func TestWishes(t *testing.T) {
	for _, c := range []struct {
		name string
		mode container.NetworkMode
		conf *network.NetworkingConfig
		want string
	}{
		{"nothing said", "", nil, "bridge"},
		{"default", "default", endpointsIn("default"), "bridge"},
		{"bridge", "bridge", endpointsIn(), "bridge"},
		{"none", "none", nil, ""},
		{"none, as the CLI says it", "none", endpointsIn("none"), ""},
		{"a network", "front", nil, "front"},
		{"a network, as the CLI says it", "front", endpointsIn("front"), "front"},
		{"several, that of the mode first", "front", endpointsIn("back", "front", "admin"), "front admin back"},
		{"others than the mode's", "bridge", endpointsIn("front"), "front"},
	} {
		h := &container.HostConfig{NetworkMode: c.mode}
		got, err := wishes(&container.Config{}, h, c.conf)
		var names []string
		for _, w := range got {
			names = append(names, w.network)
		}
		if err != nil || strings.Join(names, " ") != c.want {
			t.Errorf("%s: %v, %v; want %q", c.name, names, err, c.want)
		}
		if h.NetworkMode.IsDefault() || h.NetworkMode == "" {
			t.Errorf("%s: the mode is still %q", c.name, h.NetworkMode)
		}
	}
	if got, err := wishes(&container.Config{NetworkDisabled: true}, &container.HostConfig{}, nil); err != nil || len(got) != 0 {
		t.Errorf("a container without a network: %v, %v", got, err)
	}
}

func TestWishesRefused(t *testing.T) {
	with := func(name string, e network.EndpointSettings) *network.NetworkingConfig {
		return &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{name: &e}}
	}
	at := func(four, six string) *network.EndpointIPAMConfig {
		c := &network.EndpointIPAMConfig{}
		if four != "" {
			c.IPv4Address = netip.MustParseAddr(four)
		}
		if six != "" {
			c.IPv6Address = netip.MustParseAddr(six)
		}
		return c
	}
	for _, c := range []struct {
		name, mode string
		conf       *network.NetworkingConfig
		class      func(error) bool
		says       string
	}{
		{"host", "host", nil, errdefs.IsNotImplemented, "--add-host NAME:host-gateway"},
		{"another container's", "container:web", nil, errdefs.IsNotImplemented, "put both containers on one network"},
		{"none with others", "none", endpointsIn("none", "front"), errdefs.IsInvalidArgument, "in private (none) mode"},
		{"others with none", "front", endpointsIn("none", "front"), errdefs.IsInvalidArgument, "in private (none) mode"},
		{"none, and others named", "none", endpointsIn("front"), errdefs.IsInvalidArgument, "in private (none) mode"},
		{"five", "a", endpointsIn("a", "b", "c", "d", "e"), errdefs.IsInvalidArgument, "at most 4"},
		{"nothing said of one", "a", &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{"a": nil}}, errdefs.IsInvalidArgument, "EndpointsConfig is nil"},
		{"address on bridge", "bridge", with("bridge", network.EndpointSettings{IPAMConfig: at("172.17.0.9", "")}), errdefs.IsInvalidArgument, "user-specified IP address is supported on user-defined networks only"},
		{"alias on bridge", "bridge", with("bridge", network.EndpointSettings{Aliases: []string{"x"}}), errdefs.IsInvalidArgument, "network-scoped aliases are only supported"},
		{"IPv6 as IPv4", "a", with("a", network.EndpointSettings{IPAMConfig: at("fd00::1", "")}), errdefs.IsInvalidArgument, "invalid IPv4 address"},
		{"IPv4 as IPv6", "a", with("a", network.EndpointSettings{IPAMConfig: at("", "10.0.0.1")}), errdefs.IsInvalidArgument, "invalid IPv6 address"},
		{"MAC of a group", "a", with("a", network.EndpointSettings{MacAddress: network.HardwareAddr{1, 0, 0, 0, 0, 1}}), errdefs.IsInvalidArgument, "not one of a group"},
		{"MAC of eight bytes", "a", with("a", network.EndpointSettings{MacAddress: network.HardwareAddr{2, 0, 0, 0, 0, 1, 2, 3}}), errdefs.IsInvalidArgument, "must be six bytes"},
		{"unknown option", "a", with("a", network.EndpointSettings{DriverOpts: map[string]string{"com.docker.network.endpoint.sysctls": "x"}}), errdefs.IsNotImplemented, "com.docker.network.endpoint.sysctls"},
		{"interface's name", "a", with("a", network.EndpointSettings{DriverOpts: map[string]string{optionInterface: "a/b"}}), errdefs.IsInvalidArgument, "no name of an interface"},
	} {
		if got, err := wishes(&container.Config{}, &container.HostConfig{NetworkMode: container.NetworkMode(c.mode)}, c.conf); err == nil || !c.class(err) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, %v; want %q", c.name, got, err, c.says)
		}
	}
}
