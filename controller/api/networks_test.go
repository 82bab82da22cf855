package api

import (
	"reflect"
	"testing"

	"github.com/moby/moby/api/types/network"
)

// TestNetworkFields: what each field of a request about a container's place in a network does. What a network's own request does is in
// package network, TestRequest.
func TestNetworkFields(t *testing.T) {
	decided := map[string]string{
		"ConnectRequest.Container":        "done",
		"ConnectRequest.EndpointConfig":   "done",
		"DisconnectRequest.Container":     "done",
		"DisconnectRequest.Force":         "ignored: a container is in a network as its VM's record says, and nowhere else",
		"EndpointIPAMConfig.IPv4Address":  "done",
		"EndpointIPAMConfig.IPv6Address":  "done",
		"EndpointIPAMConfig.LinkLocalIPs": "refused by name",
		"EndpointSettings.IPAMConfig":     "done",
		"EndpointSettings.Links":          "refused by name",
		"EndpointSettings.Aliases":        "done",
		"EndpointSettings.DriverOpts":     "done: com.docker.network.endpoint.ifname; others are refused by name",
		"EndpointSettings.GwPriority":     "done",
		"EndpointSettings.MacAddress":     "done",

		"EndpointSettings.NetworkID":           "ignored: shown only, as in Docker",
		"EndpointSettings.EndpointID":          "ignored: shown only, as in Docker",
		"EndpointSettings.Gateway":             "ignored: shown only, as in Docker",
		"EndpointSettings.IPAddress":           "ignored: shown only, as in Docker",
		"EndpointSettings.IPPrefixLen":         "ignored: shown only, as in Docker",
		"EndpointSettings.IPv6Gateway":         "ignored: shown only, as in Docker",
		"EndpointSettings.GlobalIPv6Address":   "ignored: shown only, as in Docker",
		"EndpointSettings.GlobalIPv6PrefixLen": "ignored: shown only, as in Docker",
		"EndpointSettings.DNSNames":            "ignored: shown only, as in Docker",
	}
	found := map[string]bool{}
	for _, value := range []any{network.ConnectRequest{}, network.DisconnectRequest{}, network.EndpointIPAMConfig{}, network.EndpointSettings{}} {
		kind := reflect.TypeOf(value)
		for _, field := range reflect.VisibleFields(kind) {
			name := kind.Name() + "." + field.Name
			if found[name] = true; decided[name] == "" {
				t.Errorf("nobody has decided what the field %s of a request does", name)
			}
		}
	}
	for name := range decided {
		if !found[name] {
			t.Errorf("there is no field %s", name)
		}
	}
}

func TestNetworkFilterText(t *testing.T) {
	for _, c := range []struct {
		value, text string
		want        bool
	}{{"ri", "bridge", true}, {"^bri", "bridge", true}, {"x", "bridge", false}, {"[", "a[b", true}, {"[", "bridge", false}} {
		if got := fitsText(c.value, c.text); got != c.want {
			t.Errorf("%q fits %q: %v", c.value, c.text, got)
		}
	}
}
