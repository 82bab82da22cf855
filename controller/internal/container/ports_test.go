package container

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

func bind(ip, port string) network.PortBinding {
	b := network.PortBinding{HostPort: port}
	if ip != "" {
		b.HostIP = netip.MustParseAddr(ip)
	}
	return b
}

// text is a publication as short as it gets.
func text(p hostapi.Publication) string {
	host := fmt.Sprint(p.HostPort)
	if p.HostPortEnd != 0 {
		host += fmt.Sprintf("-%d", p.HostPortEnd)
	}
	return fmt.Sprintf("%s:%s->%d/%s", p.HostIP, host, p.Port, p.Protocol)
}

func TestPublications(t *testing.T) {
	port := network.MustParsePort
	exposed := network.PortSet{port("80/tcp"): {}, port("53/udp"): {}}
	for _, c := range []struct {
		name string
		all  bool
		in   network.PortMap
		want string
	}{
		{"nothing", false, nil, ""},
		{"every address", false, network.PortMap{port("80"): {bind("", "8080")}}, "0.0.0.0:8080->80/tcp :::8080->80/tcp"},
		{"one family", false, network.PortMap{port("80"): {bind("0.0.0.0", "8080"), bind("::", "8081")}}, "0.0.0.0:8080->80/tcp :::8081->80/tcp"},
		{"one address", false, network.PortMap{port("53/udp"): {bind("127.0.0.1", "5353"), bind("::1", "")}}, "127.0.0.1:5353->53/udp ::1:0->53/udp"},
		{"IPv4 in IPv6", false, network.PortMap{port("80"): {bind("::ffff:10.0.0.1", "1")}}, "10.0.0.1:1->80/tcp"},
		{"a range", false, network.PortMap{port("80"): {bind("10.0.0.1", "8000-8010")}}, "10.0.0.1:8000-8010->80/tcp"},
		{"a range of one", false, network.PortMap{port("80"): {bind("10.0.0.1", "8000-8000")}}, "10.0.0.1:8000->80/tcp"},
		{"no binding", false, network.PortMap{port("80"): {}}, "0.0.0.0:0->80/tcp :::0->80/tcp"},
		{"in order", false, network.PortMap{port("81/udp"): {bind("10.0.0.1", "3")}, port("9"): {bind("10.0.0.1", "1")}, port("81"): {bind("10.0.0.1", "2")}},
			"10.0.0.1:1->9/tcp 10.0.0.1:2->81/tcp 10.0.0.1:3->81/udp"},
		{"all that are exposed", true, network.PortMap{port("80"): {bind("10.0.0.1", "1")}}, "0.0.0.0:0->53/udp :::0->53/udp 10.0.0.1:1->80/tcp"},
	} {
		got, err := publications(&container.Config{ExposedPorts: exposed}, &container.HostConfig{PublishAllPorts: c.all, PortBindings: c.in})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var words []string
		for _, p := range got {
			words = append(words, text(p))
		}
		if strings.Join(words, " ") != c.want {
			t.Errorf("%s: %s, want %s", c.name, words, c.want)
		}
		if _, err := (hostapi.Net{Endpoints: []hostapi.Endpoint{{Network: "n"}}, Publish: got}).Encode(); err != nil {
			t.Errorf("%s: the host would refuse it: %v", c.name, err)
		}
	}
}

func TestPublicationsRefused(t *testing.T) {
	port := network.MustParsePort
	many := network.PortMap{}
	for n := range hostapi.MaxPublication/2 + 1 {
		many[port(fmt.Sprint(n+1))] = nil
	}
	for name, c := range map[string]struct {
		in    network.PortMap
		class func(error) bool
		says  string
	}{
		"sctp":            {network.PortMap{port("80/sctp"): {bind("", "1")}}, errdefs.IsNotImplemented, "sctp is not supported"},
		"other protocol":  {network.PortMap{port("80/x"): {bind("", "1")}}, errdefs.IsInvalidArgument, `invalid port specification: "80/x"`},
		"port 0":          {network.PortMap{port("0"): {bind("", "1")}}, errdefs.IsInvalidArgument, `invalid port specification: "0/tcp"`},
		"no number":       {network.PortMap{port("80"): {bind("", "http")}}, errdefs.IsInvalidArgument, `invalid port specification: "http"`},
		"backwards":       {network.PortMap{port("80"): {bind("", "9-8")}}, errdefs.IsInvalidArgument, `invalid port specification: "9-8"`},
		"a range from 0":  {network.PortMap{port("80"): {bind("", "0-8")}}, errdefs.IsInvalidArgument, `invalid port specification: "0-8"`},
		"too large":       {network.PortMap{port("80"): {bind("", "70000")}}, errdefs.IsInvalidArgument, `invalid port specification: "70000"`},
		"an address zone": {network.PortMap{port("80"): {bind("fe80::1%eth0", "1")}}, errdefs.IsInvalidArgument, "with a zone"},
		"too many":        {many, errdefs.IsInvalidArgument, "at most 4096"},
	} {
		if got, err := publications(&container.Config{}, &container.HostConfig{PortBindings: c.in}); err == nil || !c.class(err) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, %v; want %q", name, got, err, c.says)
		}
	}
}

// TestPorts: what a host has published is shown, and what is only exposed, and nothing of a container that does not run.
func TestPorts(t *testing.T) {
	c, err := Parse(vmWith(t, vsphere.PoweredOn, &tetherv1.Status{State: tetherv1.State_RUNNING}, ""))
	if err != nil {
		t.Fatal(err)
	}
	web, dns := network.MustParsePort("80"), network.MustParsePort("53/udp")
	c.Config.ExposedPorts = network.PortSet{dns: {}}
	c.VM.Extra[hostapi.KeyPublished] = `[{"protocol":"tcp","hostIP":"0.0.0.0","hostPort":40001,"port":80},{"protocol":"tcp","hostIP":"::","hostPort":40001,"port":80}]`
	got := c.Ports()
	if want := []network.PortBinding{bind("0.0.0.0", "40001"), bind("::", "40001")}; len(got) != 2 || !slices.Equal(got[web], want) || got[dns] != nil {
		t.Errorf("ports %v", got)
	}
	for _, nonsense := range []string{"{", `[{"port":1,"protocol":""}]`, "null"} {
		c.VM.Extra[hostapi.KeyPublished] = nonsense
		if got := c.Ports(); len(got) != 1 {
			t.Errorf("the host says %s: ports %v", nonsense, got)
		}
	}
	c.VM.PowerState = vsphere.PoweredOff
	if got := c.Ports(); len(got) != 0 {
		t.Errorf("off: ports %v", got)
	}
}
