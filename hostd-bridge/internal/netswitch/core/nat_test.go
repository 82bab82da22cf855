package core

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/netswitch"
)

func TestNATOfConnections(t *testing.T) {
	b := newBench(t)
	g := b.add(2)
	for address, outside := range map[string]string{"127.0.0.1": "198.51.100.7", "::1": "2001:db8:ffff::7"} {
		port := serveOutside(t, address, echo)
		c := g.mustDial(net.JoinHostPort(outside, itoa(int(port))))
		say(t, c, "hello")
		hear(t, c, "hello")
		// The guest has said all, and still hears the rest.
		big := make([]byte, 3<<20)
		rand.Read(big)
		go func() { _, _ = c.Write(big); c.CloseWrite() }()
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, big) {
			t.Errorf("%d bytes of %d came back, %v", len(got), len(big), err)
		}
	}
	if _, err := g.dial("198.51.100.7:1"); !isRefused(err) {
		t.Errorf("nobody listens there: %v", err)
	}
}

// TestNATHalfClose: the end of the peer's direction is not the end of the guest's.
func TestNATHalfClose(t *testing.T) {
	b := newBench(t)
	g := b.add(2)
	heard := make(chan string, 1)
	port := serveOutside(t, "127.0.0.1", func(c net.Conn) {
		c.(*net.TCPConn).CloseWrite()
		all, _ := io.ReadAll(c)
		heard <- string(all)
	})
	c := g.mustDial(fmt.Sprintf("198.51.100.7:%d", port))
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read %d, %v", n, err)
	}
	say(t, c, "still here")
	c.CloseWrite()
	if got := <-heard; got != "still here" {
		t.Errorf("the peer heard %q", got)
	}
}

// TestNATResets: who resets a connection resets it for the other.
func TestNATResets(t *testing.T) {
	b := newBench(t)
	g := b.add(2)
	ended := make(chan error, 1)
	port := serveOutside(t, "127.0.0.1", func(c net.Conn) {
		word := make([]byte, 4)
		if _, err := io.ReadFull(c, word); err == nil && string(word) == "kill" {
			c.(*net.TCPConn).SetLinger(0)
			return
		}
		say(t, c, "ok")
		_, err := c.Read(word)
		ended <- err
	})
	to := fmt.Sprintf("198.51.100.7:%d", port)
	c := g.mustDial(to)
	say(t, c, "kill")
	if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("the peer's reset is heard as %v", err)
	}
	c = g.mustDial(to)
	say(t, c, "wait")
	hear(t, c, "ok")
	abort(g.stack)
	select {
	case err := <-ended:
		if err == nil || err == io.EOF {
			t.Errorf("the guest's reset is heard as %v", err)
		}
	case <-time.After(patience):
		t.Error("the guest's reset is not heard")
	}
	b.eventually("no session is left", func() bool { return b.stats().Gateway.Sessions == 0 })
}

func TestNATOfDatagrams(t *testing.T) {
	b := newBench(t)
	g := b.add(2)
	for address, outside := range map[string]string{"127.0.0.1": "198.51.100.7", "::1": "2001:db8:ffff::7"} {
		port := echoOutside(t, address)
		c := g.dialUDP(net.JoinHostPort(outside, itoa(int(port))))
		for _, size := range []int{1, 1400, 5000, 0, 60000} { // some in fragments
			sent := bytes.Repeat([]byte{byte(size)}, size)
			if _, err := c.Write(sent); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 64<<10)
			n, err := c.Read(got)
			if err != nil || !bytes.Equal(got[:n], sent) {
				t.Errorf("%s: of %d bytes %d came back, %v", outside, size, n, err)
			}
		}
	}
}

// TestSessionsEndWithTheirEndpoint, also those in the netstack's other end.
func TestSessionsEndWithTheirEndpoint(t *testing.T) {
	b := newBench(t)
	g, other := b.add(2), b.add(3)
	gone := make(chan error, 2)
	port := serveOutside(t, "127.0.0.1", func(c net.Conn) {
		say(t, c, "hi")
		_, err := c.Read(make([]byte, 1))
		gone <- err
	})
	to := fmt.Sprintf("198.51.100.7:%d", port)
	c, d := g.mustDial(to), other.mustDial(to)
	hear(t, c, "hi")
	hear(t, d, "hi")
	b.config.Endpoints = b.config.Endpoints[1:]
	b.apply()
	if err := <-gone; err == nil {
		t.Error("the connection of an endpoint that left goes on")
	}
	b.eventually("one session is left", func() bool { return b.stats().Gateway.Sessions == 1 })
	say(t, d, "x")
	if err := <-gone; err != nil {
		t.Errorf("the other's connection is gone too: %v", err)
	}
}

// TestDefaultDeny holds every line of the policy: no packet to any of these reaches a socket, and the guest hears so at once.
func TestDefaultDeny(t *testing.T) {
	var hosts []string
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		hosts = append(hosts, a.(*net.IPNet).IP.String())
	}
	b := newBench(t, func(c *netswitch.Config, _ *outside) {
		c.Denied = append(c.Denied, prefix("172.18.0.0/16"), prefix("198.51.100.128/25"))
	})
	g := b.add(2)
	for _, to := range append(hosts,
		"127.0.0.1", "127.1.2.3", "0.0.0.1", "169.254.169.254", "169.254.0.1", "240.0.0.1", "254.255.255.255", // their kinds
		"172.17.0.1", "172.18.0.2", "198.51.100.200", // this network and others
		"::1", "fd00:17::1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::1", "fec0::1", "fd00:ec2::254",
	) {
		if a := ip(to); a.IsLinkLocalUnicast() && a.Is6() { // has no way to the gateway: see TestAdmit
			continue
		} else if a.IsLoopback() { // a netstack keeps these to itself: see TestAdmit
			continue
		}
		if c, err := g.dial(net.JoinHostPort(to, "7")); !isRefused(err) {
			t.Errorf("TCP to %s: %v, %v", to, c, err)
		}
		u := g.dialUDP(net.JoinHostPort(to, "7"))
		say(t, u, "x")
		b.eventually("UDP to "+to+" is refused", func() bool { // the guest's netstack does not wake who waits
			u.SetDeadline(time.Now().Add(5 * time.Millisecond))
			_, err := u.Read(make([]byte, 1))
			return isRefused(err)
		})
		u.Close()
	}
	if dialed := b.wasDialed(); dialed != nil {
		t.Errorf("the switch has dialled %v", dialed)
	}
	if s := b.stats().Endpoints["vm-2"]; s.Refused == 0 || s.Sessions != 0 {
		t.Errorf("stats are %+v", s)
	}
	// The same ways with what is allowed.
	port := serveOutside(t, "127.0.0.1", echo)
	g.mustDial(fmt.Sprintf("198.51.100.7:%d", port))
	if dialed := b.wasDialed(); len(dialed) != 1 {
		t.Errorf("the switch has dialled %v", dialed)
	}
}

// TestInternalNetwork: nothing leads out of it, and its own names and neighbours are there.
func TestInternalNetwork(t *testing.T) {
	b := newBench(t, func(c *netswitch.Config, _ *outside) { c.Internal = true; c.HostGateway = []hostapi.PortRange{} })
	g, other := b.add(2), b.add(3)
	other.listen(80, echo)
	c := g.mustDial("172.17.0.3:80")
	say(t, c, "hi")
	hear(t, c, "hi")
	if _, err := g.dial("198.51.100.7:80"); !isRefused(err) {
		t.Errorf("a way out: %v", err)
	}
	if dialed := b.wasDialed(); dialed != nil {
		t.Errorf("the switch has dialled %v", dialed)
	}
}

// TestNetworkBecomesInternal: what leads out ends.
func TestNetworkBecomesInternal(t *testing.T) {
	b := newBench(t)
	g := b.add(2)
	c := g.mustDial(fmt.Sprintf("198.51.100.7:%d", serveOutside(t, "127.0.0.1", echo)))
	b.config.Internal = true
	b.apply()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection goes on")
	}
}

func TestHostGateway(t *testing.T) {
	port := serveOutside(t, "127.0.0.1", echo)
	datagrams := echoOutside(t, "127.0.0.1")
	closed := serveOutside(t, "127.0.0.1", echo) // not in the range
	b := newBench(t, func(c *netswitch.Config, _ *outside) {
		c.HostGateway = []hostapi.PortRange{{Protocol: "tcp", First: port, Last: port}, {Protocol: "udp", First: datagrams, Last: datagrams}}
	})
	asked, not := b.add(2, func(e *netswitch.Endpoint) { e.HostGateway = true }), b.add(3)
	for _, gateway := range []string{"172.17.0.1", "fd00:17::1"} {
		c := asked.mustDial(net.JoinHostPort(gateway, itoa(int(port))))
		say(t, c, "hi")
		hear(t, c, "hi")
		u := asked.dialUDP(net.JoinHostPort(gateway, itoa(int(datagrams))))
		say(t, u, "hi")
		hear(t, u, "hi")
		if _, err := asked.dial(net.JoinHostPort(gateway, itoa(int(closed)))); !isRefused(err) {
			t.Errorf("a port that is not open: %v", err)
		}
		if _, err := not.dial(net.JoinHostPort(gateway, itoa(int(port)))); !isRefused(err) {
			t.Errorf("who has not asked: %v", err)
		}
	}
	if _, err := asked.dial(fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
		t.Error("the host's loopback is there by its own address")
	}
}
