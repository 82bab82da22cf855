package daemon_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/tether/link/linktest"
)

// TestPublishedByTheController: on a host that has no switches the controller publishes ports itself, by the link: they are shown, taken by
// one container at a time, the same after its own restart, and free when the run has ended.
func TestPublishedByTheController(t *testing.T) {
	hello := func(_ *daemontest.Machine, tether *linktest.Tether) {
		tether.OnConnect(func(_ context.Context, network string, address netip.AddrPort) (net.Conn, error) {
			near, far := linktest.SocketPair(t)
			go func() {
				_, _ = io.WriteString(far, network+" "+address.String())
				far.Close()
			}()
			return near, nil
		})
	}
	for name, f := range map[string]forks{"booted": {noNetworks: true}, "warm": {noNetworks: true, templates: 1, warm: 1}} {
		t.Run(name, func(t *testing.T) {
			e := startForks(t, daemontest.TetherGuest(t, hello), ctr.Timeouts{}, f)
			if f.warm > 0 {
				e.awaitWarm(1)
			}
			web := network.MustParsePort("80/tcp")
			create := func(name, port string) string {
				return e.create(name, container.Config{Cmd: []string{"sleep"}}, container.HostConfig{
					PortBindings: network.PortMap{web: {{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: port}}},
				})
			}
			answer := func(port string) string {
				conn, err := net.Dial("tcp", "127.0.0.1:"+port)
				if err != nil {
					return err.Error()
				}
				defer conn.Close()
				text, _ := io.ReadAll(conn)
				return string(text)
			}
			id := create("one", "")
			e.begin(id)
			c := e.inspect(id)
			bound := c.NetworkSettings.Ports[web]
			if len(bound) != 1 || bound[0].HostPort == "" {
				t.Fatalf("published: %v", c.NetworkSettings.Ports)
			}
			port := bound[0].HostPort
			if n, err := strconv.Atoi(port); err != nil || n < 1 {
				t.Fatalf("port %q", port)
			}
			want := "tcp " + c.NetworkSettings.Networks["bridge"].IPAddress.String() + ":80"
			if got := answer(port); got != want {
				t.Errorf("the port answers %q, want %q", got, want)
			}
			two := create("two", port)
			if err := e.startError(two); !strings.Contains(err, "Bind for 127.0.0.1:"+port+" failed: port is already allocated") {
				t.Errorf("a port that is taken: %s", err)
			}
			e.stop()
			e.run()
			for patience := e.ctx(); answer(port) != want; time.Sleep(10 * time.Millisecond) { // until it is bound again
				if patience.Err() != nil {
					t.Fatal("after a restart of the controller the port does not answer")
				}
			}
			if _, err := e.docker.ContainerKill(e.ctx(), id, client.ContainerKillOptions{}); err != nil {
				t.Fatal(err)
			}
			if _, err := e.docker.ContainerStart(e.ctx(), two, client.ContainerStartOptions{}); err != nil {
				t.Fatalf("when the port is free: %v", err)
			}
			if c := e.inspect(two); c.NetworkSettings.Ports[web][0].HostPort != port {
				t.Errorf("published: %v", c.NetworkSettings.Ports)
			}
		})
	}
}
