package network

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/containervm/containervm/controller/internal/fields"
)

func ipam(c ...network.IPAMConfig) *network.IPAM { return &network.IPAM{Config: c} }

// TestRequest: what each field of a request does. A field is done, or refused by name.
func TestRequest(t *testing.T) {
	covered := map[string]bool{}
	yes, no := true, false
	sub := network.IPAMConfig{Subnet: prefix("10.5.0.0/24")}
	with := func(change func(*network.IPAMConfig)) *network.IPAM {
		c := sub
		change(&c)
		return ipam(c)
	}
	option := func(key, value string) network.CreateRequest {
		return network.CreateRequest{Options: map[string]string{key: value}}
	}
	type result struct {
		class func(error) bool // nil: it is done
		says  string           // part of the error, or of the network as Go prints it
	}
	for _, c := range []struct {
		field   string
		request network.CreateRequest
		want    result
	}{
		{"Name", network.CreateRequest{}, result{nil, "PortGroup:cvm-n "}},
		{"Name", network.CreateRequest{Name: " "}, result{errdefs.IsInvalidArgument, "invalid name"}},
		{"Name", network.CreateRequest{Name: "a/b"}, result{errdefs.IsInvalidArgument, "invalid name"}},
		{"Name", network.CreateRequest{Name: "-a"}, result{errdefs.IsInvalidArgument, "invalid name"}},
		{"Name", network.CreateRequest{Name: strings.Repeat("a", 77)}, result{errdefs.IsInvalidArgument, "more than 76"}},
		{"Name", network.CreateRequest{Name: "bridge"}, result{errdefs.IsPermissionDenied, "operation is not permitted on predefined bridge network"}},
		{"Name", network.CreateRequest{Name: "host"}, result{errdefs.IsPermissionDenied, "predefined host network"}},
		{"Driver", network.CreateRequest{Driver: "bridge"}, result{nil, "Driver:bridge"}},
		{"Driver", network.CreateRequest{Driver: "overlay"}, result{errdefs.IsNotImplemented, `driver "overlay"`}},
		{"Driver", network.CreateRequest{Driver: "macvlan"}, result{errdefs.IsNotImplemented, `driver "macvlan"`}},
		{"Scope", network.CreateRequest{Scope: "local"}, result{nil, ""}},
		{"Scope", network.CreateRequest{Scope: "swarm"}, result{errdefs.IsNotImplemented, `scope "swarm"`}},
		{"EnableIPv4", network.CreateRequest{EnableIPv4: &yes}, result{nil, "IPv4:{Subnet:172.17.0.0/16 Range:invalid Prefix Gateway:172.17.0.1"}},
		{"EnableIPv4", network.CreateRequest{EnableIPv4: &no}, result{errdefs.IsNotImplemented, "without IPv4"}},
		{"EnableIPv6", network.CreateRequest{EnableIPv6: &yes}, result{nil, "IPv6:{Subnet:fd"}},
		{"EnableIPv6", network.CreateRequest{EnableIPv6: &no}, result{nil, "IPv6:{Subnet:invalid"}},
		{"IPAM", network.CreateRequest{IPAM: ipam()}, result{nil, "Subnet:172.17.0.0/16"}},
		{"IPAM", network.CreateRequest{IPAM: ipam(network.IPAMConfig{})}, result{nil, "Subnet:172.17.0.0/16"}},
		{"IPAM.Driver", network.CreateRequest{IPAM: &network.IPAM{Driver: "default"}}, result{nil, ""}},
		{"IPAM.Driver", network.CreateRequest{IPAM: &network.IPAM{Driver: "x"}}, result{errdefs.IsNotImplemented, `IPAM driver "x"`}},
		{"IPAM.Options", network.CreateRequest{IPAM: &network.IPAM{Options: map[string]string{"k": "v"}}}, result{errdefs.IsNotImplemented, `IPAM option "k"`}},
		{"IPAM.Config", network.CreateRequest{IPAM: ipam(sub, network.IPAMConfig{Subnet: prefix("10.6.0.0/24")})},
			result{errdefs.IsInvalidArgument, "bridge driver doesn't support multiple subnets"}},
		{"IPAM.Config.Subnet", network.CreateRequest{IPAM: ipam(sub)}, result{nil, "Subnet:10.5.0.0/24 Range:invalid Prefix Gateway:10.5.0.1"}},
		{"IPAM.Config.Subnet", network.CreateRequest{EnableIPv6: &yes, IPAM: ipam(network.IPAMConfig{Subnet: prefix("fd07::/64")})}, result{nil, "Gateway:fd07::1"}},
		{"IPAM.Config.Subnet", network.CreateRequest{IPAM: ipam(network.IPAMConfig{Subnet: prefix("fd07::/64")})}, result{errdefs.IsInvalidArgument, "--ipv6"}},
		{"IPAM.Config.Subnet", network.CreateRequest{IPAM: ipam(network.IPAMConfig{Subnet: prefix("10.5.0.1/24")})},
			result{errdefs.IsInvalidArgument, "invalid network config:\ninvalid subnet 10.5.0.1/24: it should be 10.5.0.0/24"}},
		{"IPAM.Config.Subnet", network.CreateRequest{IPAM: ipam(network.IPAMConfig{Subnet: prefix("10.5.0.0/31")})}, result{errdefs.IsInvalidArgument, "too small"}},
		{"IPAM.Config.Subnet", network.CreateRequest{IPAM: ipam(network.IPAMConfig{Subnet: prefix("127.0.0.0/8")})}, result{errdefs.IsInvalidArgument, "no gateway"}},
		{"IPAM.Config.Subnet", network.CreateRequest{IPAM: ipam(network.IPAMConfig{Subnet: prefix("169.254.0.0/16")})}, result{errdefs.IsInvalidArgument, "no gateway"}},
		{"IPAM.Config.Subnet", network.CreateRequest{IPAM: ipam(network.IPAMConfig{Gateway: addr("10.5.0.1")})}, result{errdefs.IsInvalidArgument, "without a subnet"}},
		{"IPAM.Config.Subnet", network.CreateRequest{IPAM: ipam(network.IPAMConfig{Subnet: prefix("10.99.0.0/24")})},
			result{errdefs.IsPermissionDenied, "Pool overlaps with other one on this address space"}},
		{"IPAM.Config.Subnet", network.CreateRequest{IPAM: ipam(network.IPAMConfig{Subnet: prefix("192.0.0.0/16")})}, result{errdefs.IsPermissionDenied, "192.0.2.0/24"}},
		{"IPAM.Config.Subnet", network.CreateRequest{IPAM: ipam(network.IPAMConfig{Subnet: prefix("172.30.5.0/24")})}, result{nil, "172.30.5.1"}},
		{"IPAM.Config.IPRange", network.CreateRequest{IPAM: with(func(c *network.IPAMConfig) { c.IPRange = prefix("10.5.0.64/26") })},
			result{nil, "Range:10.5.0.64/26 Gateway:10.5.0.64"}}, // as Docker: of the range
		{"IPAM.Config.IPRange", network.CreateRequest{IPAM: with(func(c *network.IPAMConfig) { c.IPRange = prefix("10.0.0.0/8") })},
			result{errdefs.IsInvalidArgument, "invalid ip-range 10.0.0.0/8: CIDR block is bigger than its parent subnet 10.5.0.0/24"}},
		{"IPAM.Config.IPRange", network.CreateRequest{IPAM: with(func(c *network.IPAMConfig) { c.IPRange = prefix("fd00::/80") })},
			result{errdefs.IsInvalidArgument, "parent subnet is an IPv4 block"}},
		{"IPAM.Config.Gateway", network.CreateRequest{IPAM: with(func(c *network.IPAMConfig) { c.Gateway = addr("10.5.0.254") })}, result{nil, "Gateway:10.5.0.254"}},
		{"IPAM.Config.Gateway", network.CreateRequest{IPAM: with(func(c *network.IPAMConfig) { c.Gateway = addr("10.6.0.1") })},
			result{errdefs.IsInvalidArgument, "invalid gateway 10.6.0.1: parent subnet 10.5.0.0/24 doesn't contain this address"}},
		{"IPAM.Config.Gateway", network.CreateRequest{IPAM: with(func(c *network.IPAMConfig) { c.Gateway = addr("10.5.0.255") })}, result{errdefs.IsInvalidArgument, "no gateway"}},
		{"IPAM.Config.AuxAddress", network.CreateRequest{IPAM: with(func(c *network.IPAMConfig) { c.AuxAddress = map[string]netip.Addr{"a": addr("10.5.0.1")} })},
			result{nil, "Gateway:10.5.0.2"}},
		{"IPAM.Config.AuxAddress", network.CreateRequest{IPAM: with(func(c *network.IPAMConfig) { c.AuxAddress = map[string]netip.Addr{"a": addr("10.6.0.1")} })},
			result{errdefs.IsInvalidArgument, "invalid auxiliary address a"}},
		{"Internal", network.CreateRequest{Internal: true}, result{nil, "Internal:true"}},
		{"Attachable", network.CreateRequest{Attachable: true}, result{nil, "Attachable:true"}},
		{"Labels", network.CreateRequest{Labels: map[string]string{"a": "b"}}, result{nil, "Labels:map[a:b]"}},
		{"Options", option(optionMTU, "1400"), result{nil, "MTU:1400"}},
		{"Options", option(optionMTU, "x"), result{errdefs.IsInvalidArgument, optionMTU}},
		{"Options", option(optionMTU, "20"), result{errdefs.IsInvalidArgument, "MTU 20"}},
		{"Options", option(optionMTU, "70000"), result{errdefs.IsInvalidArgument, "MTU 70000"}},
		{"Options", option(optionIPv6, "true"), result{nil, "IPv6:{Subnet:fd"}},
		{"Options", option(optionIPv6, "x"), result{errdefs.IsInvalidArgument, optionIPv6}},
		{"Options", option(optionIPv4, "false"), result{errdefs.IsNotImplemented, optionIPv4 + "=false"}},
		{"Options", option(bridgeOption+"enable_icc", "true"), result{nil, "enable_icc:true"}},
		{"Options", option(bridgeOption+"enable_icc", "false"), result{errdefs.IsNotImplemented, "enable_icc=false"}},
		{"Options", option(bridgeOption+"enable_ip_masquerade", "false"), result{errdefs.IsNotImplemented, "enable_ip_masquerade=false"}},
		{"Options", option(bridgeOption+"gateway_mode_ipv4", "routed"), result{errdefs.IsNotImplemented, "gateway_mode_ipv4=routed"}},
		{"Options", option(bridgeOption+"name", "br0"), result{nil, "br0"}}, // ignored, with a reason: see ignored()
		{"Options", option(optionBindIPv4, "127.0.0.1"), result{errdefs.IsNotImplemented, "host_binding_ipv4=127.0.0.1"}},
		{"Options", option("com.example", "x"), result{errdefs.IsNotImplemented, `"com.example"`}},
	} {
		covered[c.field] = true
		if c.request.Name == "" {
			c.request.Name = "n"
		}
		n, err := placed(c.request)
		text := fmt.Sprintf("%+v", n)
		switch {
		case c.want.class == nil && (err != nil || !strings.Contains(text, c.want.says)):
			t.Errorf("%s: %v; %s, want %q", c.field, err, text, c.want.says)
		case c.want.class != nil && (!c.want.class(err) || !strings.Contains(err.Error(), c.want.says)):
			t.Errorf("%s: %v, want %q", c.field, err, c.want.says)
		}
	}
	for prefix, value := range map[string]any{
		"": network.CreateRequest{}, "IPAM.": network.IPAM{}, "IPAM.Config.": network.IPAMConfig{},
	} {
		for _, field := range reflect.VisibleFields(reflect.TypeOf(value)) {
			if !covered[prefix+field.Name] && field.Name != "ConfigFrom" && fields.NetworkCreate()[prefix+field.Name].State != fields.Refused {
				t.Errorf("nobody has decided what the field %s%s of a request does", prefix, field.Name)
			}
		}
	}
}

// TestChooses: a network without a subnet gets the next of Docker's that hides nothing.
func TestChooses(t *testing.T) {
	taken := Routes{Connected: []netip.Prefix{prefix("172.17.9.0/24")}, Further: []netip.Prefix{prefix("172.18.0.0/15")}}
	a := asked{Network: bridge(time.Now())}
	if n, err := a.place([]netip.Prefix{prefix("172.20.5.0/24")}, taken); err != nil || n.IPv4.Subnet != prefix("172.21.0.0/16") {
		t.Errorf("%v, %v", n.IPv4, err)
	}
}

// placed is a network on a host that is in 192.0.2.0/24, reaches 172.30.0.0/16, and has a network with 10.99.0.0/16.
func placed(r network.CreateRequest) (Network, error) {
	a, err := ask(r, time.Now())
	if err != nil {
		return Network{}, err
	}
	return a.place([]netip.Prefix{prefix("10.99.0.0/16")}, Routes{
		Connected: []netip.Prefix{prefix("192.0.2.0/24")}, Further: []netip.Prefix{prefix("172.30.0.0/16")},
	})
}
