package daemon_test

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
	"github.com/containervm/containervm/tether/link/linktest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// network makes a network and returns its ID.
func (e *engine) network(name, subnet string) string {
	e.t.Helper()
	conf := network.IPAMConfig{Subnet: netip.MustParsePrefix(subnet)}
	res, err := e.docker.NetworkCreate(e.ctx(), name, client.NetworkCreateOptions{IPAM: &network.IPAM{Config: []network.IPAMConfig{conf}}})
	if err != nil {
		e.t.Fatal(err)
	}
	return res.ID
}

// createIn makes a container in networks, of which the first is its mode.
func (e *engine) createIn(name string, host container.HostConfig, in map[string]*network.EndpointSettings) (string, error) {
	res, err := e.docker.ContainerCreate(e.ctx(), client.ContainerCreateOptions{
		Name: name, Config: &container.Config{Image: "base", Cmd: []string{"sleep"}}, HostConfig: &host,
		NetworkingConfig: &network.NetworkingConfig{EndpointsConfig: in},
	})
	return res.ID, err
}

func (e *engine) inspect(id string) container.InspectResponse {
	e.t.Helper()
	res, err := e.docker.ContainerInspect(e.ctx(), id, client.ContainerInspectOptions{})
	if err != nil {
		e.t.Fatal(err)
	}
	return res.Container
}

// hostNet is what a container's host is told.
func (e *engine) hostNet(id string) hostapi.Net {
	e.t.Helper()
	text := e.vm(id).Extra[hostapi.KeyNet]
	if text == "" {
		return hostapi.Net{}
	}
	n, err := hostapi.DecodeNet(text)
	if err != nil {
		e.t.Fatal(err)
	}
	return n
}

// TestDefaultNetwork: a container has an address and a MAC address of its own before it starts, the same while it runs and after, and
// its guest, its host and the inspection say the same. The rest of its life it keeps them.
func TestDefaultNetwork(t *testing.T) {
	for name, f := range map[string]forks{"booted": {}, "forked": {templates: 1}, "forked without a disk": {templates: 1, noDisk: true}, "warm": {templates: 1, warm: 1}} {
		t.Run(name, func(t *testing.T) {
			e := startForks(t, daemontest.TetherGuest(t, nil), ctr.Timeouts{}, f)
			if f.templates > 0 {
				e.awaitTemplates(1)
			}
			if f.warm > 0 {
				e.awaitWarm(1)
			}
			ids := map[netip.Addr]string{}
			for _, name := range []string{"one", "two"} {
				id := e.create(name, container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
				before := e.inspect(id).NetworkSettings.Networks["bridge"]
				if before == nil || !netip.MustParsePrefix("172.17.0.0/16").Contains(before.IPAddress) || before.IPPrefixLen != 16 || before.Gateway.String() != "172.17.0.1" ||
					len(before.MacAddress) != 6 || len(before.EndpointID) != 64 || !slices.Equal(before.DNSNames, []string{name, id[:12]}) {
					t.Fatalf("created: %+v", before)
				}
				if other := ids[before.IPAddress]; other != "" {
					t.Errorf("%s and %s both have %s", other, name, before.IPAddress)
				}
				ids[before.IPAddress] = name
				e.begin(id)
				during := e.inspect(id)
				at := during.NetworkSettings.Networks["bridge"]
				if at.IPAddress != before.IPAddress || at.EndpointID != before.EndpointID || during.NetworkSettings.SandboxID == "" || during.HostConfig.NetworkMode != "bridge" {
					t.Errorf("running: %+v, before %+v", during.NetworkSettings, before)
				}
				spec := e.spec(id)
				if len(spec.GetInterfaces()) != 1 || spec.Interfaces[0].Mac != at.MacAddress.String() || spec.Interfaces[0].Slot != 1 ||
					spec.Interfaces[0].Addresses[0] != at.IPAddress.String()+"/16" || spec.Interfaces[0].Gateway != "172.17.0.1" {
					t.Errorf("the guest is told %v", spec)
				}
				if n := e.hostNet(id); len(n.Endpoints) != 1 || n.Endpoints[0].Network != hostapi.DefaultNetwork || n.Endpoints[0].Addresses[0] != at.IPAddress ||
					!slices.Equal(n.Endpoints[0].Names, []string{name, id[:12]}) {
					t.Errorf("the host is told %+v", n)
				}
				if _, err := e.docker.ContainerKill(e.ctx(), id, client.ContainerKillOptions{}); err != nil {
					t.Fatal(err)
				}
				e.begin(id)
				if again := e.inspect(id).NetworkSettings.Networks["bridge"]; again.IPAddress != at.IPAddress || again.MacAddress.String() != at.MacAddress.String() {
					t.Errorf("started again: %+v, before %+v", again, at)
				}
			}
			if _, err := e.docker.ContainerRename(e.ctx(), "one", client.ContainerRenameOptions{NewName: "uno"}); err != nil {
				t.Fatal(err)
			}
			if n := e.hostNet(e.inspect("uno").ID); n.Endpoints[0].Names[0] != "uno" {
				t.Errorf("renamed: %+v", n)
			}
		})
	}
}

// TestWarmIntoAnotherNetwork: a warm machine keeps its MAC address when it becomes a container of another network; those that come after
// it in the default network have its address there, and another MAC address.
func TestWarmIntoAnotherNetwork(t *testing.T) {
	e := startForks(t, daemontest.TetherGuest(t, nil), ctr.Timeouts{}, forks{templates: 1, warm: 1})
	e.awaitTemplates(1)
	e.awaitWarm(1)
	if _, err := e.docker.NetworkCreate(e.ctx(), "shop", client.NetworkCreateOptions{}); err != nil {
		t.Fatal(err)
	}
	e.create("web", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{NetworkMode: "shop"})
	e.awaitWarm(1)
	for _, name := range []string{"one", "two"} {
		e.begin(e.create(name, container.Config{Cmd: []string{"sleep"}}, container.HostConfig{}))
	}
}

// TestSeveralNetworks: cards in the order of the request, the mode's first; wishes are kept; the default route is the one with the
// highest priority, else the first by name.
func TestSeveralNetworks(t *testing.T) {
	for name, f := range map[string]forks{"booted": {}, "forked": {templates: 1}, "warm": {templates: 1, warm: 1}} {
		t.Run(name, func(t *testing.T) {
			e := startForks(t, daemontest.TetherGuest(t, nil), ctr.Timeouts{}, f)
			front, back := e.network("front", "10.1.0.0/24"), e.network("back", "10.2.0.0/24")
			if f.warm > 0 {
				e.awaitTemplates(1)
				e.awaitWarm(1)
			}
			id, err := e.createIn("web", container.HostConfig{NetworkMode: "front"}, map[string]*network.EndpointSettings{
				"front": {Aliases: []string{"www"}, IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr("10.1.0.77")}},
				back:    {GwPriority: 1, DriverOpts: map[string]string{"com.docker.network.endpoint.ifname": "lan0"}},
			})
			if err != nil {
				t.Fatal(err)
			}
			e.begin(id)
			got := e.inspect(id).NetworkSettings.Networks
			if len(got) != 2 || got["front"].NetworkID != front || got["front"].IPAddress.String() != "10.1.0.77" || !slices.Equal(got["front"].Aliases, []string{"www"}) ||
				!slices.Equal(got["front"].DNSNames, []string{"web", "www", id[:12]}) || got["back"].IPAddress.String() != "10.2.0.2" || got["back"].GwPriority != 1 {
				t.Errorf("networks %+v, %+v", got["front"], got["back"])
			}
			i := e.spec(id).GetInterfaces()
			if len(i) != 2 || i[0].Slot != 1 || i[0].Gateway != "" || i[1].Slot != 2 || i[1].Gateway != "10.2.0.1" || i[1].Name != "lan0" {
				t.Errorf("the guest is told %v", i)
			}
			if status := e.call("GET", "/networks/front", "", nil); status != 200 {
				t.Error(status)
			}
			list, err := e.docker.ContainerList(e.ctx(), client.ContainerListOptions{Filters: client.Filters{}.Add("network", back[:12])})
			if err != nil || len(list.Items) != 1 {
				t.Errorf("ps --filter network: %v, %v", list.Items, err)
			}
		})
	}
}

// TestNetworkRefused: what cannot be is refused before there is a machine, and leaves no address taken. An unknown network is no missing
// image: Docker's clients pull one when an answer is 404.
func TestNetworkRefused(t *testing.T) {
	e := start(t, nil)
	e.network("front", "10.1.0.0/29")
	at := func(address string) *network.EndpointSettings {
		return &network.EndpointSettings{IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr(address)}}
	}
	if _, err := e.createIn("taken", container.HostConfig{NetworkMode: "front"}, map[string]*network.EndpointSettings{"front": at("10.1.0.3")}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		mode  container.NetworkMode
		in    map[string]*network.EndpointSettings
		extra string
		class func(error) bool
		says  string
	}{
		{"nosuch", nil, "", errdefs.IsInvalidArgument, "network nosuch not found"},
		{"front", map[string]*network.EndpointSettings{"front": {}, "nosuch": {}}, "", errdefs.IsInvalidArgument, "network nosuch not found"},
		{"front", map[string]*network.EndpointSettings{"front": at("10.1.0.3")}, "", errdefs.IsPermissionDenied, "Address already in use"},
		{"front", map[string]*network.EndpointSettings{"front": at("10.9.0.3")}, "", errdefs.IsInvalidArgument, "no configured subnet contains IP address 10.9.0.3"},
		{"host", nil, "", errdefs.IsNotImplemented, "--add-host NAME:host-gateway"},
		{"container:taken", nil, "", errdefs.IsNotImplemented, "put both containers on one network"},
		{"bridge", nil, "up:host-gateway", errdefs.IsInvalidArgument, "cvm up --host-gateway"},
		{"none", nil, "up:host-gateway", errdefs.IsInvalidArgument, "unable to derive the IP value for host-gateway"},
	} {
		host := container.HostConfig{NetworkMode: c.mode}
		if c.extra != "" {
			host.ExtraHosts = []string{c.extra}
		}
		if _, err := e.createIn("", host, c.in); err == nil || !c.class(err) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; want %q", c.mode, err, c.says)
		}
	}
	for _, want := range []string{"10.1.0.2", "10.1.0.4", "10.1.0.5", "10.1.0.6"} {
		id, err := e.createIn("", container.HostConfig{NetworkMode: "front"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.inspect(id).NetworkSettings.Networks["front"].IPAddress; got.String() != want {
			t.Errorf("address %s, want %s", got, want)
		}
	}
	if _, err := e.createIn("", container.HostConfig{NetworkMode: "front"}, nil); err == nil || !strings.Contains(err.Error(), "no available IPv4 addresses on this network's address pools: front") {
		t.Errorf("a network that is full: %v", err)
	}
	if _, err := e.docker.ContainerRemove(e.ctx(), "taken", client.ContainerRemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if id, err := e.createIn("", container.HostConfig{NetworkMode: "front"}, nil); err != nil || e.inspect(id).NetworkSettings.Networks["front"].IPAddress.String() != "10.1.0.3" {
		t.Errorf("the address of a container that is gone: %v", err)
	}
}

// TestConnect: a container comes into a network and leaves it while it runs, while it is parked and while it is off, and its guest, its
// host and its record say the same each time. What a guest does not do is undone.
func TestConnect(t *testing.T) {
	x := &tethers{byID: map[string]*linktest.Tether{}}
	times := impatient
	times.Start = 0 // as usual: its starts succeed
	e := startForks(t, daemontest.TetherGuest(t, x.setup), times, forks{templates: 1})
	e.awaitTemplates(1)
	back := e.network("back", "10.2.0.0/24")
	told := func(id string) []*tetherv1.ConfigureRequest {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.byID[id].Configures()
	}
	connect := func(id, to string, conf *network.EndpointSettings) error {
		_, err := e.docker.NetworkConnect(e.ctx(), to, client.NetworkConnectOptions{Container: id, EndpointConfig: conf})
		return err
	}
	disconnect := func(id, from string) error {
		_, err := e.docker.NetworkDisconnect(e.ctx(), from, client.NetworkDisconnectOptions{Container: id})
		return err
	}
	agree := func(id string, want ...string) {
		t.Helper()
		var names, interfaces []string
		for name, at := range e.inspect(id).NetworkSettings.Networks {
			names = append(names, name)
			interfaces = append(interfaces, at.MacAddress.String())
		}
		slices.Sort(names)
		var spec []string
		for _, i := range e.spec(id).GetInterfaces() {
			spec = append(spec, i.Mac)
		}
		slices.Sort(spec)
		slices.Sort(interfaces)
		if !slices.Equal(names, want) || !slices.Equal(spec, interfaces) || e.vm(id).Extra["cvm.unconfigured"] != "" {
			t.Errorf("in %v, want %v; the guest is told of %v, the record says %v", names, want, spec, interfaces)
		}
		if n := e.hostNet(id); len(n.Endpoints) != len(want) && len(n.Endpoints) != 0 {
			t.Errorf("the host is told %+v", n)
		}
	}
	id := e.create("web", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{})
	if err := connect(id, "back", nil); err != nil { // parked
		t.Fatal(err)
	}
	agree(id, "back", "bridge")
	if err := connect(id, "back", nil); err != nil {
		t.Errorf("connected twice while it is off: %v", err)
	}
	e.begin(id)
	if fork := e.forkOf(id); fork.Kind != "boot" {
		t.Errorf("a machine that was parked has another network and is %+v", fork)
	}
	if err := connect(id, "back", nil); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "endpoint with name web already exists in network back") {
		t.Errorf("connected twice: %v", err)
	}
	if err := disconnect(id, "bridge"); err != nil {
		t.Fatal(err)
	}
	agree(id, "back")
	if all := told(id); len(all) != 1 || len(all[0].Interfaces) != 1 || all[0].Interfaces[0].Slot != 2 || all[0].Interfaces[0].Gateway != "10.2.0.1" {
		t.Errorf("told %v", all)
	}
	if err := disconnect(id, "bridge"); err == nil || !strings.Contains(err.Error(), "is not connected to network bridge") {
		t.Errorf("disconnected twice: %v", err)
	}
	front := e.network("front", "10.1.0.0/24")
	if err := connect(id, front, &network.EndpointSettings{Aliases: []string{"www"}, IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr("10.1.0.9")}}); err != nil {
		t.Fatal(err)
	}
	agree(id, "back", "front")
	if all := told(id); len(all) != 2 || len(all[1].Interfaces) != 2 || all[1].Interfaces[0].Slot != 1 || all[1].Interfaces[0].Addresses[0] != "10.1.0.9/24" {
		t.Errorf("told %v", all)
	}
	if err := connect(id, "nosuch", nil); !errdefs.IsNotFound(err) {
		t.Errorf("an unknown network: %v", err)
	}
	if err := connect("nosuch", "back", nil); !errdefs.IsNotFound(err) {
		t.Errorf("an unknown container: %v", err)
	}
	if _, err := e.docker.ContainerKill(e.ctx(), id, client.ContainerKillOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := disconnect(id, back); err != nil {
		t.Fatal(err)
	}
	agree(id, "front")

	lone := e.create("lone", container.Config{Cmd: []string{"sleep"}}, container.HostConfig{NetworkMode: "none"})
	if err := connect(lone, "back", nil); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "in private (none) mode") {
		t.Errorf("a container without a network: %v", err)
	}
	if got := e.inspect(lone).NetworkSettings.Networks; len(got) != 1 || got["none"] == nil {
		t.Errorf("a container without a network is in %v", got)
	}
}

// TestConnectUndone: a guest that does not take its new network leaves the container as it was.
func TestConnectUndone(t *testing.T) {
	e := startOn(t, badGuests(t, nil), impatient)
	e.network("back", "10.2.0.0/24")
	id := e.create("web", container.Config{Cmd: []string{"nolink"}}, container.HostConfig{})
	e.begin(id)
	before := e.vm(id).Extra
	_, err := e.docker.NetworkConnect(e.ctx(), "back", client.NetworkConnectOptions{Container: id})
	if err == nil || !strings.Contains(err.Error(), "change the network of") {
		t.Errorf("connected: %v", err)
	}
	after := e.vm(id).Extra
	for _, key := range []string{"cvm.networks", link.KeySpec, hostapi.KeyNet} {
		if after[key] != before[key] {
			t.Errorf("%s is %s, was %s", key, after[key], before[key])
		}
	}
	if after["cvm.unconfigured"] == "" {
		t.Error("nobody sees to the guest later")
	}
	if got := e.inspect(id).NetworkSettings.Networks; len(got) != 1 {
		t.Errorf("in %v", got)
	}
}

// TestObsoleteFields: versions of the API until 1.51 have the place in the network bridge at the top, and one MAC address.
func TestObsoleteFields(t *testing.T) {
	e := start(t, nil)
	var made struct {
		ID       string `json:"Id"`
		Warnings []string
	}
	if status := e.call("POST", "/containers/create?name=old", `{"Image":"base","Cmd":["sleep"],"MacAddress":"02:00:00:00:00:07"}`, &made); status != 201 || len(made.Warnings) != 1 {
		t.Fatalf("%d, %+v", status, made)
	}
	var old struct {
		Config          struct{ MacAddress string }
		NetworkSettings struct {
			IPAddress, Gateway, MacAddress string
			IPPrefixLen                    int
			Networks                       map[string]struct{ MacAddress, IPAddress string }
		}
	}
	e.call("GET", "/containers/old/json", "", &old)
	if s := old.NetworkSettings; old.Config.MacAddress != "02:00:00:00:00:07" || s.MacAddress != "02:00:00:00:00:07" || s.IPAddress != "172.17.0.2" ||
		s.Gateway != "172.17.0.1" || s.IPPrefixLen != 16 || s.Networks["bridge"].IPAddress != s.IPAddress {
		t.Errorf("inspected: %+v", old)
	}
}

// TestForkNetworks: children have addresses, MAC addresses and names of their own on the networks of their source, and its ports where the
// host chooses.
func TestForkNetworks(t *testing.T) {
	e, _ := forkingRunning(t)
	e.network("front", "10.1.0.0/24")
	web := network.MustParsePort("80/tcp")
	ports := network.PortMap{web: {{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: freePort(t)}}}
	source, err := e.createIn("web", container.HostConfig{NetworkMode: "front", PortBindings: ports}, map[string]*network.EndpointSettings{
		"front": {Aliases: []string{"www"}, IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr("10.1.0.9")}}, "bridge": {},
	})
	if err != nil {
		t.Fatal(err)
	}
	e.begin(source)
	var reply struct {
		Children []struct {
			ID       string `json:"Id"`
			Error    string
			Networks map[string]network.EndpointSettings
			Ports    network.PortMap
		}
	}
	if status := e.call("POST", "/containers/web/fork", `{"Count":2}`, &reply); status != 201 || len(reply.Children) != 2 {
		t.Fatalf("%d, %+v", status, reply)
	}
	seen := map[string]bool{"10.1.0.9": true}
	for _, at := range e.inspect(source).NetworkSettings.Networks {
		seen[at.MacAddress.String()], seen[at.IPAddress.String()] = true, true
	}
	hostPorts := map[string]bool{ports[web][0].HostPort: true}
	for _, child := range reply.Children {
		c := e.inspect(child.ID)
		if child.Error != "" || len(child.Networks) != 2 || len(c.NetworkSettings.Networks) != 2 {
			t.Fatalf("child %+v in %v", child, c.NetworkSettings.Networks)
		}
		for name, at := range c.NetworkSettings.Networks {
			if child.Networks[name].IPAddress != at.IPAddress {
				t.Errorf("the answer says %v of network %s, its inspection %v", child.Networks[name], name, at)
			}
			for _, own := range []string{at.MacAddress.String(), at.IPAddress.String()} {
				if seen[own] {
					t.Errorf("%s is another's", own)
				}
				seen[own] = true
			}
			if want := []string{strings.TrimPrefix(c.Name, "/"), child.ID[:12]}; !slices.Equal(at.DNSNames, want) {
				t.Errorf("names %v, want %v", at.DNSNames, want)
			}
		}
		got := c.NetworkSettings.Ports[web]
		if len(got) != 1 || got[0].HostIP.String() != "127.0.0.1" || hostPorts[got[0].HostPort] || c.HostConfig.PortBindings[web][0].HostPort != "" || !slices.Equal(child.Ports[web], got) {
			t.Errorf("ports %v, bindings %v, in the answer %v", got, c.HostConfig.PortBindings, child.Ports)
		}
		if len(got) == 1 {
			hostPorts[got[0].HostPort] = true
		}
		var slots []uint32
		for _, i := range e.spec(child.ID).GetInterfaces() {
			slots = append(slots, i.Slot)
		}
		if !slices.Equal(slots, []uint32{1, 2}) {
			t.Errorf("cards %v", slots)
		}
	}
}

// freePort is a TCP port of loopback that nobody has.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// TestPublish: ports are published while a container runs, and shown by inspect and ps. A port that is taken fails the start in Docker's
// words and leaves the container created, or parked, and it starts when the port is free.
func TestPublish(t *testing.T) {
	for name, f := range map[string]forks{"booted": {}, "forked": {templates: 1}, "warm": {templates: 1, warm: 1}} {
		t.Run(name, func(t *testing.T) {
			e := startForks(t, daemontest.TetherGuest(t, nil), ctr.Timeouts{}, f)
			if f.warm > 0 {
				e.awaitTemplates(1)
				e.awaitWarm(1)
			}
			web, dns := network.MustParsePort("80/tcp"), network.MustParsePort("53/udp")
			fixed := freePort(t)
			host := container.HostConfig{PublishAllPorts: true, PortBindings: network.PortMap{web: {{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: fixed}}}}
			conf := container.Config{Cmd: []string{"sleep"}, ExposedPorts: network.PortSet{web: {}, dns: {}}}
			first, second := e.create("first", conf, host), e.create("second", conf, host)
			if got := e.inspect(first).NetworkSettings.Ports; len(got) != 0 {
				t.Errorf("created: %v", got)
			}
			e.begin(first)
			got := e.inspect(first).NetworkSettings.Ports
			if len(got[web]) != 1 || got[web][0].HostPort != fixed || len(got[dns]) == 0 || got[dns][0].HostPort == "0" {
				t.Errorf("running: %v", got)
			}
			list, err := e.docker.ContainerList(e.ctx(), client.ContainerListOptions{Filters: client.Filters{}.Add("publish", fixed)})
			if err != nil || len(list.Items) != 1 || list.Items[0].ID != first || list.Items[0].Ports[len(list.Items[0].Ports)-1].PrivatePort != 80 {
				t.Errorf("ps: %+v, %v", list.Items, err)
			}
			_, err = e.docker.ContainerStart(e.ctx(), second, client.ContainerStartOptions{})
			want := "driver failed programming external connectivity on endpoint second ("
			if err == nil || !errdefs.IsInternal(err) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "Bind for 127.0.0.1:"+fixed+" failed: port is already allocated") {
				t.Errorf("a taken port: %v", err)
			}
			if s := e.state(second); s.Status != "created" {
				t.Errorf("after a taken port: %+v", s)
			}
			if _, err := e.docker.ContainerKill(e.ctx(), first, client.ContainerKillOptions{}); err != nil {
				t.Fatal(err)
			}
			if got := e.inspect(first).NetworkSettings.Ports; len(got) != 0 {
				t.Errorf("ended: %v", got)
			}
			e.begin(second)
			if kind := e.forkOf(second).Kind; (kind == "fork") != (f.templates > 0) {
				t.Errorf("it is a %s", kind)
			}
			if got := e.inspect(second).NetworkSettings.Ports; len(got[web]) != 1 {
				t.Errorf("the second: %v", got)
			}
		})
	}
}

// TestLinks: a container finds another one by the name that a link gives it, in a network of the user's own.
func TestLinks(t *testing.T) {
	e := start(t, nil)
	e.network("front", "10.1.0.0/24")
	if _, err := e.createIn("db", container.HostConfig{NetworkMode: "front"}, nil); err != nil {
		t.Fatal(err)
	}
	hosts := func(id string) (all []string) {
		for _, h := range e.spec(id).GetHosts() {
			all = append(all, h.Address+" "+strings.Join(h.Names, " "))
		}
		return all
	}
	want := []string{"10.1.0.2 store"}
	id, err := e.createIn("web", container.HostConfig{NetworkMode: "front", Links: []string{"db:store"}}, nil)
	if err != nil || !slices.Equal(hosts(id), want) {
		t.Errorf("hosts %q, %v", hosts(id), err)
	}
	id, err = e.createIn("app", container.HostConfig{NetworkMode: "front"}, map[string]*network.EndpointSettings{"front": {Links: []string{"/db:/app/store"}}})
	if err != nil || !slices.Equal(hosts(id), want) {
		t.Errorf("hosts by the network's links: %q, %v", hosts(id), err)
	}
	for _, bad := range []string{"nonesuch:x", "a:b c", ":x"} {
		if _, err := e.createIn("", container.HostConfig{NetworkMode: "front", Links: []string{bad}}, nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("link %q: %v", bad, err)
		}
	}
}
