package daemon_test

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/internal/vmtest"
)

// TestNetworkCommands: networks as the stock client makes, shows and removes them, with Docker's words where it refuses.
func TestNetworkCommands(t *testing.T) {
	docker, err := exec.LookPath("docker")
	if err != nil {
		vmtest.Missing(t, "there is no docker command (try: apt-get install docker-cli)")
	}
	e := start(t, nil)
	for _, c := range []struct {
		args     string
		code     int
		out, err string // parts
	}{
		{"network ls --format {{.Name}}:{{.Driver}}:{{.Scope}}", 0, "bridge:bridge:local\nnone:null:local\n", ""},
		{"network create --label a=b --label c one", 0, "", ""},
		{"network create one", 1, "", "network with name one already exists"},
		{"network create --subnet 10.77.0.0/16 --ip-range 10.77.5.0/24 --gateway 10.77.0.1 --aux-address p=10.77.5.1 --internal --attachable two", 0, "", ""},
		{"network create --subnet 10.77.9.0/24 over", 1, "", "Pool overlaps with other one on this address space"},
		{"network create -d overlay three", 1, "", `network driver "overlay" is not supported`},
		{"network create --config-only three", 1, "", "config-only"},
		{"network create --ipv6 six", 0, "", ""},
		{"network create -o com.docker.network.driver.mtu=1400 mtu", 0, "", ""},
		{"network create -o foo=bar three", 1, "", `network option "foo" is not supported`},
		{"network create --ipv4=false three", 1, "", "a network without IPv4 is not supported"},
		{"network create bridge", 1, "", "operation is not permitted on predefined bridge network"},
		{"network ls -q --filter name=two --format {{.Name}}", 0, "two\n", ""},
		{"network ls --filter label=a --format {{.Name}}", 0, "one\n", ""},
		{"network ls --filter label=a=x --format {{.Name}}", 0, "", ""},
		{"network ls --filter type=builtin --format {{.Name}}", 0, "bridge\nnone\n", ""},
		{"network ls --filter type=foo", 1, "", "invalid filter: 'type'='foo'"},
		{"network ls --filter dangling=true --format {{.Name}}", 0, "mtu\none\nsix\ntwo\n", ""},
		{"network ls --filter dangling=x", 1, "", `invalid value for filter 'dangling', must be "true" (or "1"), or "false" (or "0")`},
		{"network ls --filter scope=swarm --format {{.Name}}", 0, "", ""},
		{"network ls --filter driver=null --format {{.Name}}", 0, "none\n", ""},
		{"network inspect two --format {{range.IPAM.Config}}{{.Subnet}},{{.IPRange}},{{.Gateway}},{{.AuxAddress.p}}{{end}}", 0,
			"10.77.0.0/16,10.77.5.0/24,10.77.0.1,10.77.5.1", ""},
		{"network inspect two --format {{.Internal}}{{.Attachable}}{{.EnableIPv6}}", 0, "truetruefalse", ""},
		{"network inspect six --format {{.EnableIPv6}}{{range.IPAM.Config}}x{{end}}", 0, "truexx", ""},
		{"network inspect nope", 1, "[]", "network nope not found"},
		{"network rm nope", 1, "", "network nope not found"},
		{"network rm bridge none", 1, "", "bridge is a pre-defined network and cannot be removed"},
		{"network rm two", 0, "two\n", ""},
		{"run -d --name c --network one base sleep", 0, "", ""},
		{"network inspect one --format {{range.Containers}}{{.Name}},{{.IPv4Address}},{{.MacAddress}}{{end}}", 0, "c,172.18.0.2/16,02:42:ac:12:00:02", ""},
		{"network rm one", 1, "", `network one has active endpoints (name:"c" id:"`},
		{"network prune -f", 0, "mtu\n", ""},
		{"network ls --format {{.Name}}", 0, "bridge\nnone\none\n", ""},
		{"stop c", 0, "c\n", ""},
		{"network rm one", 0, "one\n", ""},
		{"start c", 1, "", "not found"},
		{"network disconnect one c", 0, "", ""},
		{"start c", 0, "c\n", ""},
		{"rm -f c", 0, "c\n", ""},
	} {
		cmd := exec.CommandContext(e.ctx(), docker, strings.Fields(c.args)...)
		cmd.Env = []string{"DOCKER_HOST=unix://" + e.socket, "HOME=" + t.TempDir()}
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		_ = cmd.Run() // the code says it
		exact := strings.Contains(c.args, " ls ") && c.code == 0
		if code := cmd.ProcessState.ExitCode(); code != c.code || !strings.Contains(out.String(), c.out) || exact && out.String() != c.out || !strings.Contains(errs.String(), c.err) {
			t.Errorf("docker %s: %d, %q, %q; want %d, %q, %q", c.args, code, out.String(), errs.String(), c.code, c.out, c.err)
		}
	}
	if groups, err := e.connect().PortGroups(e.ctx()); err != nil || !slices.Equal(groups, []string{hostapi.DefaultNetwork}) {
		t.Errorf("port groups %v are left, %v", groups, err)
	}
}

// TestNetworksOfHost: a network is a port group, which others may remove: the next start makes it again; and the host knows its settings.
func TestNetworksOfHost(t *testing.T) {
	e := start(t, nil)
	host := e.connect()
	settings := func() map[string]hostapi.NetworkSettings {
		t.Helper()
		all, err := host.HostNetworks(e.ctx())
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]hostapi.NetworkSettings{}
		for _, n := range all.Networks {
			got[n.Name] = n.Settings
		}
		return got
	}
	made, err := e.docker.NetworkCreate(e.ctx(), "one", client.NetworkCreateOptions{Options: map[string]string{"com.docker.network.driver.mtu": "1400"}, Internal: true})
	if err != nil {
		t.Fatal(err)
	}
	gateway := netip.MustParsePrefix("172.18.0.1/16")
	if got := settings()["cvm-one"]; !slices.Equal(got.Gateways, []netip.Prefix{gateway}) || got.MTU != 1400 || !got.Internal {
		t.Errorf("the host was told %+v", got)
	}
	if got := settings()[hostapi.DefaultNetwork]; !slices.Equal(got.Gateways, []netip.Prefix{netip.MustParsePrefix("172.17.0.1/16")}) {
		t.Errorf("the host was told of the default network %+v", got)
	}
	if err := host.RemovePortGroup(e.ctx(), "cvm-one"); err != nil {
		t.Fatal(err)
	}
	e.stop()
	e.run()
	if got := settings()["cvm-one"]; got.MTU != 1400 {
		t.Errorf("made again, the host was told %+v", got)
	}
	again, err := e.docker.NetworkInspect(e.ctx(), "one", client.NetworkInspectOptions{})
	if err != nil || again.Network.ID != made.ID || !again.Network.Internal {
		t.Errorf("made again: %+v, %v", again.Network, err)
	}
	e.create("c", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{NetworkMode: "one"})
	if err := host.RemovePortGroup(e.ctx(), "cvm-one"); !errdefs.IsConflict(err) {
		t.Errorf("a port group with a card in it is removed: %v", err)
	}
	if err := host.AddPortGroup(e.ctx(), "cvm-theirs"); err != nil {
		t.Fatal(err)
	}
	if _, err := e.docker.NetworkCreate(e.ctx(), "theirs", client.NetworkCreateOptions{}); !errdefs.IsConflict(err) {
		t.Errorf("made over a port group of someone else: %v", err)
	}
}

// TestNetworkEvents: what happens to networks, and who comes into them and leaves.
func TestNetworkEvents(t *testing.T) {
	e := start(t, nil)
	stream := e.docker.Events(e.ctx(), client.EventsListOptions{Filters: client.Filters{}.Add("type", "network")})
	made, err := e.docker.NetworkCreate(e.ctx(), "one", client.NetworkCreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	id := e.create("c", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	e.begin(id)
	connect := func() {
		t.Helper()
		if _, err := e.docker.NetworkConnect(e.ctx(), "one", client.NetworkConnectOptions{Container: id}); err != nil {
			t.Fatal(err)
		}
	}
	connect()
	if _, err := e.docker.NetworkDisconnect(e.ctx(), "one", client.NetworkDisconnectOptions{Container: id}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.docker.ContainerKill(e.ctx(), id, client.ContainerKillOptions{}); err != nil {
		t.Fatal(err)
	}
	bridge, err := e.docker.NetworkInspect(e.ctx(), "bridge", client.NetworkInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		action  events.Action
		network string
		name    string
		by      string
	}{
		{events.ActionCreate, made.ID, "one", ""},
		{events.ActionConnect, bridge.Network.ID, "bridge", id},
		{events.ActionConnect, made.ID, "one", id},
		{events.ActionDisconnect, made.ID, "one", id},
		{events.ActionDisconnect, bridge.Network.ID, "bridge", id},
	} {
		select {
		case m := <-stream.Messages:
			if m.Action != want.action || m.Actor.ID != want.network || m.Actor.Attributes["name"] != want.name ||
				m.Actor.Attributes["container"] != want.by || m.Actor.Attributes["type"] != "bridge" {
				t.Errorf("event %+v, want %+v", m, want)
			}
		case err := <-stream.Err:
			t.Fatal(err)
		}
	}
}

// TestNetworkStatus: newer clients see how many addresses are in use, older ones see no field that they do not know.
func TestNetworkStatus(t *testing.T) {
	e := start(t, nil)
	e.begin(e.create("c", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{}))
	for version, want := range map[string]bool{"1.51": false, "1.52": true} {
		res, err := e.dialer().Get("http://docker/v" + version + "/networks/bridge")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var n network.Inspect
		if err := json.NewDecoder(res.Body).Decode(&n); err != nil {
			t.Fatal(err)
		}
		if (n.Status != nil) != want {
			t.Errorf("version %s: %+v", version, n.Status)
		}
		if want && n.Status.IPAM.Subnets[netip.MustParsePrefix("172.17.0.0/16")].IPsInUse != 4 {
			t.Errorf("status: %+v", n.Status)
		}
		if len(n.Containers) != 1 {
			t.Errorf("containers: %+v", n.Containers)
		}
	}
}
