package hostapi

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestNet(t *testing.T) {
	n := Net{
		Endpoints: []Endpoint{{Network: DefaultNetwork, Addresses: []netip.Addr{netip.MustParseAddr("172.17.0.2")}, Names: []string{"web", "0123456789ab"}}, {Network: "cvm-b"}},
		Publish:   []Publication{{Protocol: TCP, HostIP: netip.IPv4Unspecified(), HostPort: 8080, Port: 80}, {Protocol: UDP, HostIP: netip.IPv6Unspecified(), HostPort: 1, HostPortEnd: 9, Port: 53, Network: "cvm-b"}},
	}
	text, err := n.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := DecodeNet(text); err != nil || !reflect.DeepEqual(again, n) {
		t.Errorf("%s is read as %+v, %v", text, again, err)
	}
	for why, text := range map[string]string{
		"not JSON": "{", "two documents": "{}{}", "unknown field": `{"ports":[]}`,
		"unknown field of an endpoint": `{"endpoints":[{"network":"a","mac":"x"}]}`,
		"network twice":                `{"endpoints":[{"network":"a"},{"network":"a"}]}`,
		"network without a name":       `{"endpoints":[{"network":""}]}`,
		"five networks":                `{"endpoints":[{"network":"a"},{"network":"b"},{"network":"c"},{"network":"d"},{"network":"e"}]}`,
		"loopback":                     `{"endpoints":[{"network":"a","addresses":["127.0.0.1"]}]}`,
		"IPv4 in IPv6":                 `{"endpoints":[{"network":"a","addresses":["::ffff:1.2.3.4"]}]}`,
		"name with a space":            `{"endpoints":[{"network":"a","names":["a b"]}]}`,
		"protocol":                     `{"endpoints":[{"network":"a"}],"publish":[{"protocol":"sctp","hostIP":"0.0.0.0","hostPort":1,"port":1}]}`,
		"port 0":                       `{"endpoints":[{"network":"a"}],"publish":[{"protocol":"tcp","hostIP":"0.0.0.0","hostPort":1,"port":0}]}`,
		"no host address":              `{"endpoints":[{"network":"a"}],"publish":[{"protocol":"tcp","hostIP":"","hostPort":1,"port":1}]}`,
		"range backwards":              `{"endpoints":[{"network":"a"}],"publish":[{"protocol":"tcp","hostIP":"::","hostPort":5,"hostPortEnd":4,"port":1}]}`,
		"other network":                `{"endpoints":[{"network":"a"}],"publish":[{"protocol":"tcp","hostIP":"::","hostPort":5,"port":1,"network":"b"}]}`,
		"published without a network":  `{"publish":[{"protocol":"tcp","hostIP":"::","hostPort":5,"port":1}]}`,
	} {
		if n, err := DecodeNet(text); err == nil || !strings.Contains(err.Error(), KeyNet) {
			t.Errorf("%s: %s is read as %+v, %v", why, text, n, err)
		}
	}
}

func TestNetworkSettings(t *testing.T) {
	prefix := netip.MustParsePrefix
	for _, s := range []NetworkSettings{
		{}, {Gateways: []netip.Prefix{prefix("172.17.0.1/16"), prefix("fd00::1/64")}, Internal: true, MTU: 1400},
	} {
		if err := s.Check(); err != nil {
			t.Errorf("%+v: %v", s, err)
		}
	}
	for _, s := range []NetworkSettings{
		{Gateways: []netip.Prefix{prefix("172.17.0.1/16"), prefix("10.0.0.1/8")}}, {Gateways: []netip.Prefix{{}}},
		{Gateways: []netip.Prefix{prefix("169.254.0.1/16")}}, {Gateways: []netip.Prefix{prefix("127.0.0.1/8")}}, {MTU: 67}, {MTU: 65536},
		{Gateways: []netip.Prefix{prefix("fd00::1/64")}, MTU: 1279},
	} {
		if err := s.Check(); err == nil {
			t.Errorf("%+v is no error", s)
		}
	}
}

// FuzzNet: what is taken is written and read again as the same.
func FuzzNet(f *testing.F) {
	f.Add(`{"endpoints":[{"network":"a","addresses":["10.0.0.2","fd00::2"],"names":["x"]}],"publish":[{"protocol":"tcp","hostIP":"0.0.0.0","hostPort":1,"port":1}],"hostGateway":true}`)
	f.Add(`{}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, text string) {
		_, _ = DecodePublished(text)
		n, err := DecodeNet(text)
		if err != nil {
			return
		}
		again, err := n.Encode()
		if err != nil {
			t.Fatalf("%q is taken as %+v and cannot be written: %v", text, n, err)
		}
		if _, err := DecodeNet(again); err != nil {
			t.Errorf("%q is written as %q, which is refused: %v", text, again, err)
		}
	})
}
