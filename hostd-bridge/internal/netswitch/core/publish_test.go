package core

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/netswitch"
)

func dialHost(t *testing.T, network, to string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, to)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { c.Close() })
	return c
}

// outcomes applies the bench's Config, in which some may fail.
func (b *bench) outcomes() netswitch.Result {
	b.Helper()
	r, err := b.core.apply(b.config)
	if err != nil {
		b.Fatal(err)
	}
	return r
}

func TestPublishedPorts(t *testing.T) {
	b := newBench(t)
	g := b.add(2, func(e *netswitch.Endpoint) {
		e.Publish = []hostapi.Publication{
			publish("tcp", "127.0.0.1", 0, 80), publish("tcp", "::1", 0, 80),
			publish("udp", "127.0.0.1", 0, 53), publish("udp", "::1", 0, 53), publish("udp", "0.0.0.0", 0, 54), publish("udp", "::", 0, 54),
		}
	})
	g.listen(80, echo)
	g.listenUDP(53)
	g.listenUDP(54)
	r := b.apply()
	all := r.Endpoints["vm-2"].Published
	for i := 0; i < len(all); i += 2 {
		if all[i].HostPort == 0 || all[i].HostPort != all[i+1].HostPort {
			t.Errorf("one port at two addresses is %+v and %+v", all[i], all[i+1])
		}
	}
	for i, p := range all {
		c := dialHost(t, p.Protocol, strings.NewReplacer("0.0.0.0", "127.0.0.1", "[::]", "[::1]").Replace(published(r, "vm-2", i)))
		say(t, c, "hello")
		hear(t, c, "hello")
		if p.Protocol == "tcp" {
			c.(*net.TCPConn).CloseWrite()
			if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
				t.Errorf("after the guest's end: %q, %v", rest, err)
			}
		}
	}
	b.eventually("the connections have ended", func() bool { return b.stats().Gateway.Sessions <= 4 }) // of UDP
}

// TestPublishedPortWithoutGuest: a client is reset, be the guest not there, or its port closed.
func TestPublishedPortWithoutGuest(t *testing.T) {
	b := newBench(t)
	e := endpoint(2)
	e.Publish = []hostapi.Publication{publish("tcp", "127.0.0.1", 0, 80)}
	b.config.Endpoints = []netswitch.Endpoint{e}
	r := b.apply()
	refused := func() {
		t.Helper()
		c, err := net.Dial("tcp", published(r, "vm-2", 0))
		if err == nil { // or it was reset already
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			_, err = c.Read(make([]byte, 1))
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client sees %v", err)
		}
	}
	refused()
	g := b.plug(e)
	refused()
	g.listen(80, echo)
	c := dialHost(t, "tcp", published(r, "vm-2", 0))
	say(t, c, "hi")
	hear(t, c, "hi")
}

// TestTakenPort: an endpoint with one port that is taken gets none, is not there, and says which and why; others are.
func TestTakenPort(t *testing.T) {
	b := newBench(t)
	taken := serveOutside(t, "127.0.0.1", echo)
	one, two := endpoint(2), endpoint(3)
	one.Publish = []hostapi.Publication{publish("tcp", "127.0.0.1", 0, 1), publish("tcp", "127.0.0.1", taken, 80)}
	two.Publish = []hostapi.Publication{publish("tcp", "127.0.0.1", 0, 80)}
	b.config.Endpoints = []netswitch.Endpoint{one, two}
	files := descriptors()
	r := b.outcomes()
	f := r.Endpoints["vm-2"].Failed
	if f == nil || !errors.Is(f, syscall.EADDRINUSE) || f.Publication != one.Publish[1] {
		t.Fatalf("vm-2: %+v", f)
	}
	if r.Endpoints["vm-3"].Failed != nil || len(r.Endpoints["vm-3"].Published) != 1 {
		t.Errorf("vm-3: %+v", r.Endpoints["vm-3"])
	}
	if _, there := b.stats().Endpoints["vm-2"]; there || descriptors() != files+1 {
		t.Errorf("vm-2 is there, or something of it: %d descriptors, there were %d", descriptors(), files)
	}
	for p, want := range map[hostapi.Publication]syscall.Errno{publish("tcp", "192.0.2.99", 0, 80): syscall.EADDRNOTAVAIL, publish("sctp", "0.0.0.0", 0, 80): 0} {
		one.Publish = []hostapi.Publication{p}
		b.config.Endpoints[0] = one
		if f := b.outcomes().Endpoints["vm-2"].Failed; f == nil || f.Errno != want {
			t.Errorf("%+v: %+v", p, f)
		}
	}
	// The same endpoint with what is free.
	one.Publish = []hostapi.Publication{{Protocol: "tcp", HostIP: ip("127.0.0.1"), HostPort: taken, HostPortEnd: taken + 20, Port: 80}}
	b.config.Endpoints[0] = one
	if p := b.apply().Endpoints["vm-2"].Published[0]; p.HostPort <= taken || p.HostPort > taken+20 || p.HostPortEnd != 0 {
		t.Errorf("of a range it got %+v", p)
	}
}

// TestFailedChangeChangesNothing: an endpoint that wants a port that is taken keeps what it had, with its connections.
func TestFailedChangeChangesNothing(t *testing.T) {
	b := newBench(t)
	g := b.add(2, func(e *netswitch.Endpoint) { e.Publish = []hostapi.Publication{publish("tcp", "127.0.0.1", 0, 80)} })
	g.listen(80, echo)
	before := b.apply()
	c := dialHost(t, "tcp", published(before, "vm-2", 0))
	say(t, c, "hi")
	hear(t, c, "hi")
	b.config.Endpoints[0].Publish = []hostapi.Publication{publish("tcp", "127.0.0.1", serveOutside(t, "127.0.0.1", echo), 80)}
	b.config.Endpoints[0].Names = []string{"renamed"}
	if r := b.outcomes(); r.Endpoints["vm-2"].Failed == nil {
		t.Error("a taken port is given away")
	}
	say(t, c, "still")
	hear(t, c, "still")
	say(t, dialHost(t, "tcp", published(before, "vm-2", 0)), "x")
	if b.table.Load().names["renamed"] != nil {
		t.Error("half of the change is in force")
	}
}

// TestChangesConcernNoOthers: endpoints, ports and names come and go, and connections through what stays go on.
func TestChangesConcernNoOthers(t *testing.T) {
	b := newBench(t)
	two, four := publish("tcp", "127.0.0.1", 0, 80), publish("udp", "127.0.0.1", 0, 53)
	g := b.add(2, func(e *netswitch.Endpoint) { e.Publish = []hostapi.Publication{two, four} })
	g.listen(80, echo)
	g.listenUDP(53)
	before := b.apply()
	in := dialHost(t, "tcp", published(before, "vm-2", 0))
	datagrams := dialHost(t, "udp", published(before, "vm-2", 1))
	out := g.mustDial(fmt.Sprintf("198.51.100.7:%d", serveOutside(t, "127.0.0.1", echo)))
	same := func() {
		t.Helper()
		for _, c := range []net.Conn{in, datagrams, out} {
			say(t, c, "hi")
			hear(t, c, "hi")
		}
	}
	same()
	other := b.add(3, func(e *netswitch.Endpoint) { e.Publish = []hostapi.Publication{publish("tcp", "127.0.0.1", 0, 80)} })
	same()
	// It is told the port that it was given.
	b.config.Endpoints[0].Publish = before.Endpoints["vm-2"].Published
	b.config.Endpoints[0].Names = []string{"renamed"}
	if r := b.apply(); r.Endpoints["vm-2"].Published[0] != before.Endpoints["vm-2"].Published[0] {
		t.Errorf("got %+v, had %+v", r.Endpoints["vm-2"], before.Endpoints["vm-2"])
	}
	same()
	b.config.Endpoints[0].Publish = append(b.config.Endpoints[0].Publish, publish("tcp", "127.0.0.1", 0, 81))
	b.config.Endpoints = b.config.Endpoints[:1]
	b.config.Denied = append(b.config.Denied, prefix("10.77.0.0/16"))
	r := b.apply()
	same()
	if _, err := other.conn.Read(make([]byte, 1)); err == nil {
		t.Log("a last frame of the one that left") // what was queued
	}
	// What is published no more ends with its connections.
	extra := published(r, "vm-2", 2)
	b.config.Endpoints[0].Publish = b.config.Endpoints[0].Publish[1:2]
	b.apply()
	if _, err := in.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection through what left: %v", err)
	}
	if c, err := net.Dial("tcp", extra); err == nil {
		c.Close()
		t.Error("what is published no more is still open")
	}
	say(t, datagrams, "hi")
	hear(t, datagrams, "hi")
}

// TestPortGoesFromOneToAnother in one Config, whatever their order.
func TestPortGoesFromOneToAnother(t *testing.T) {
	b := newBench(t)
	one := b.add(2, func(e *netswitch.Endpoint) { e.Publish = []hostapi.Publication{publish("tcp", "127.0.0.1", 0, 80)} })
	two := b.add(3)
	one.listen(80, func(c net.Conn) { say(t, c, "one") })
	two.listen(80, func(c net.Conn) { say(t, c, "two") })
	two.listen(81, func(c net.Conn) { say(t, c, "new") })
	p := b.apply().Endpoints["vm-2"].Published[0]
	at := netip.AddrPortFrom(p.HostIP, p.HostPort).String()
	hear(t, dialHost(t, "tcp", at), "one")
	b.config.Endpoints[0].Publish, b.config.Endpoints[1].Publish = nil, []hostapi.Publication{p}
	b.apply()
	hear(t, dialHost(t, "tcp", at), "two")
	b.config.Endpoints[0].Publish, b.config.Endpoints[1].Publish = []hostapi.Publication{p}, nil
	b.apply()
	hear(t, dialHost(t, "tcp", at), "one")
	// One leaves in favour of the other; then the port leads elsewhere.
	b.config.Endpoints = b.config.Endpoints[1:]
	b.config.Endpoints[0].Publish = []hostapi.Publication{p}
	b.apply()
	hear(t, dialHost(t, "tcp", at), "two")
	b.config.Endpoints[0].Publish[0].Port = 81
	b.apply()
	hear(t, dialHost(t, "tcp", at), "new")
	b.config.Internal = true
	if r := b.apply(); r.Endpoints["vm-3"].Published != nil {
		t.Errorf("an internal network publishes %+v", r.Endpoints["vm-3"])
	}
	if c, err := net.Dial("tcp", at); err == nil {
		c.Close()
		t.Error("the port of an internal network is open")
	}
}

// TestWrongEndpoints are refused by name, and change nothing for others.
func TestWrongEndpoints(t *testing.T) {
	b := newBench(t)
	g := b.add(2)
	good := b.config.Endpoints[0]
	for text, e := range map[string]netswitch.Endpoint{
		"two endpoints have": {VM: "vm-9", MAC: good.MAC},
		"want six bytes":     {VM: "vm-9", MAC: "x"}, "nobody's": {VM: "vm-9", MAC: "ff:ff:ff:ff:ff:ff"}, "gateway": {VM: "vm-9", MAC: gatewayMAC.String()},
		"without a VM": {MAC: "02:00:00:00:00:09"}, "no address": {VM: "vm-9", MAC: "02:00:00:00:00:09", Addresses: []netip.Addr{ip("127.0.0.1")}},
		"the gateway's": {VM: "vm-9", MAC: "02:00:00:00:00:09", Addresses: []netip.Addr{gateway4}},
	} {
		b.config.Endpoints = []netswitch.Endpoint{good, e}
		if f := b.outcomes().Endpoints[e.VM].Failed; f == nil || !strings.Contains(f.Text, text) {
			t.Errorf("want %q: %+v", text, f)
		}
	}
	if _, err := b.core.apply(netswitch.Config{Endpoints: []netswitch.Endpoint{good, {VM: good.VM, MAC: "02:00:00:00:00:09"}}}); err == nil {
		t.Error("a VM has two endpoints")
	}
	if _, err := b.core.apply(netswitch.Config{Gateways: []netip.Prefix{prefix("127.0.0.1/8")}}); err == nil {
		t.Error("a gateway at the loopback address is taken")
	}
	say(t, g.mustDial(fmt.Sprintf("198.51.100.7:%d", serveOutside(t, "127.0.0.1", echo))), "x")
}
