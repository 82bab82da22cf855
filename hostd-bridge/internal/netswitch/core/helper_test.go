package core

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/frames"
	"github.com/containervm/containervm/hostd-bridge/internal/frames/unixsocket"
	"github.com/containervm/containervm/hostd-bridge/internal/netswitch"
)

func signalContext() (context.Context, func()) {
	return signal.NotifyContext(context.Background(), syscall.SIGTERM)
}

func itoa(n int) string { return strconv.Itoa(n) }

func ip(text string) netip.Addr { return netip.MustParseAddr(text) }

func prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

// patience is how long a test waits for what does come.
const patience = 20 * time.Second

// The network of the tests, and the outside: documentation addresses (RFC 5737, RFC 3849) that lead to this host's loopback.
var (
	gateway4, gateway6 = ip("172.17.0.1"), ip("fd00:17::1")
	outside4, outside6 = netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:ffff::/48")
)

// bench is a switch in this process with what is around it.
type bench struct {
	testing.TB
	*core
	dir    string
	config netswitch.Config
	mu     sync.Mutex
	dialed []netip.AddrPort
}

// newBench starts a switch in the network of the tests, and sees that nothing is left of it.
func newBench(tb testing.TB, change ...func(*netswitch.Config, *outside)) *bench {
	tb.Helper()
	b := &bench{TB: tb, dir: tb.TempDir()}
	o := host()
	o.resolvConf = filepath.Join(b.dir, "resolv.conf")
	o.unicast = func(a netip.Addr) bool { return outside4.Contains(a) || outside6.Contains(a) || routedAway(a) }
	o.dial = func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
		b.mu.Lock()
		b.dialed = append(b.dialed, to)
		b.mu.Unlock()
		switch a := to.Addr(); {
		case outside4.Contains(a):
			to = netip.AddrPortFrom(ip("127.0.0.1"), to.Port())
		case outside6.Contains(a):
			to = netip.AddrPortFrom(ip("::1"), to.Port())
		case !a.IsLoopback():
			return nil, syscall.EHOSTUNREACH
		}
		return new(net.Dialer).DialContext(ctx, network, to.String())
	}
	b.config = netswitch.Config{Name: "test", Gateways: []netip.Prefix{prefix("172.17.0.1/16"), prefix("fd00:17::1/64")}}
	for _, c := range change {
		c(&b.config, &o)
	}
	goroutines, files := runtime.NumGoroutine(), descriptors()
	var err error
	if b.core, err = newCore(slog.New(slog.DiscardHandler), o); err != nil {
		tb.Fatal(err)
	}
	l, err := unixsocket.Listen(netswitch.FramesPath(b.dir))
	if err != nil {
		tb.Fatal(err)
	}
	served := make(chan struct{})
	go func() { defer close(served); b.serveCards(l) }()
	b.apply()
	tb.Cleanup(func() {
		l.Close()
		b.core.close()
		<-served
		if _, fuzzing := tb.(*testing.F); fuzzing {
			return // what it starts itself would be counted
		}
		b.eventually("nothing is left of the switch", func() bool { return runtime.NumGoroutine() <= goroutines && descriptors() <= files })
	})
	return b
}

// apply applies the bench's Config, which must succeed for each endpoint.
func (b *bench) apply() netswitch.Result {
	b.Helper()
	r, err := b.core.apply(b.config)
	if err != nil {
		b.Fatal(err)
	}
	for vm, o := range r.Endpoints {
		if o.Failed != nil {
			b.Fatalf("%s: %v", vm, o.Failed)
		}
	}
	return r
}

// eventually waits for something, and says where the goroutines are if it does not come.
func (b *bench) eventually(what string, is func() bool) {
	b.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			var stacks bytes.Buffer
			pprof.Lookup("goroutine").WriteTo(&stacks, 1)
			b.Fatalf("not so: %s\n%.20000s", what, stacks.String())
		}
	}
}

func descriptors() int {
	fds, _ := os.ReadDir("/proc/self/fd")
	return len(fds)
}

// wasDialed reports what the switch has dialled, and forgets it.
func (b *bench) wasDialed() []netip.AddrPort {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := b.dialed
	b.dialed = nil
	return d
}

// endpoint returns the n-th endpoint of the network: VM vm-<n>, 172.17.0.<n> and fd00:17::<n>.
func endpoint(n byte) netswitch.Endpoint {
	six := ip("fd00:17::").As16()
	six[15] = n
	return netswitch.Endpoint{
		VM: "vm-" + itoa(int(n)), MAC: frames.Address{2, 0x42, 172, 17, 0, n}.String(),
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{172, 17, 0, n}), netip.AddrFrom16(six)}, Names: []string{"c" + itoa(int(n))},
	}
}

// add adds an endpoint and plugs a guest in.
func (b *bench) add(n byte, change ...func(*netswitch.Endpoint)) *guest {
	b.Helper()
	e := endpoint(n)
	for _, c := range change {
		c(&e)
	}
	b.config.Endpoints = append(b.config.Endpoints, e)
	b.apply()
	return b.plug(e)
}

// guest is a machine on a card: a netstack of its own.
type guest struct {
	*bench
	netswitch.Endpoint
	stack *stack.Stack
	conn  net.Conn
	mac   frames.Address
	seen  func([]byte) // each frame that it gets
	sent  atomic.Int64
}

// raw connects a card without a machine.
func (b *bench) raw(e netswitch.Endpoint) net.Conn {
	b.Helper()
	c, err := frames.Dial(b.Context(), b.dir, frames.Hello{VM: e.VM, MAC: e.MAC})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	b.eventually("the card is plugged in", func() bool { return b.stats().Endpoints[e.VM].Connected })
	return c
}

// plug connects a machine, with all of the endpoint's addresses.
func (b *bench) plug(e netswitch.Endpoint, seen ...func([]byte)) *guest {
	b.Helper()
	mac, err := frames.ParseAddress(e.MAC)
	if err != nil {
		b.Fatal(err)
	}
	g := &guest{bench: b, Endpoint: e, mac: mac, conn: b.raw(e)}
	if len(seen) > 0 {
		g.seen = seen[0]
	}
	g.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{arp.NewProtocol, ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	if err := tune(g.stack); err != nil {
		b.Fatal(err)
	}
	c := &cable{guest: g, attached: make(chan struct{})}
	if err := g.stack.CreateNIC(1, c); err != nil {
		b.Fatal(err)
	}
	for _, a := range e.Addresses {
		p := prefix("172.17.0.0/16")
		if a.Is6() {
			p = prefix("fd00:17::/64")
		}
		if err := g.stack.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: family(a), AddressWithPrefix: tcpip.AddressWithPrefix{Address: toTCPIP(a), PrefixLen: p.Bits()}}, stack.AddressProperties{}); err != nil {
			b.Fatal(err)
		}
		local, _ := tcpip.NewSubnet(toTCPIP(p.Addr()), tcpip.MaskFromBytes(net.CIDRMask(p.Bits(), a.BitLen())))
		all, via := header.IPv4EmptySubnet, gateway4
		if a.Is6() {
			all, via = header.IPv6EmptySubnet, gateway6
		}
		g.stack.SetRouteTable(append(g.stack.GetRouteTable(), tcpip.Route{Destination: local, NIC: 1}, tcpip.Route{Destination: all, Gateway: toTCPIP(via), NIC: 1}))
	}
	table := g.stack.GetRouteTable()
	slices.SortStableFunc(table, func(a, b tcpip.Route) int { return b.Destination.Prefix() - a.Destination.Prefix() })
	g.stack.SetRouteTable(table)
	done := make(chan struct{})
	go func() { defer close(done); c.read() }()
	b.Cleanup(func() {
		g.conn.Close()
		<-done
		g.stack.Destroy()
	})
	return g
}

// dial connects from the guest to an address.
func (g *guest) dial(to string) (*gonet.TCPConn, error) {
	at := netip.MustParseAddrPort(to)
	ctx, cancel := context.WithTimeout(g.Context(), patience)
	defer cancel()
	return gonet.DialContextTCP(ctx, g.stack, tcpip.FullAddress{NIC: 1, Addr: toTCPIP(at.Addr()), Port: at.Port()}, family(at.Addr()))
}

func (g *guest) mustDial(to string) *gonet.TCPConn {
	g.Helper()
	c, err := g.dial(to)
	if err != nil {
		g.Fatalf("cannot connect to %s: %v", to, err)
	}
	c.SetDeadline(time.Now().Add(patience))
	g.Cleanup(func() { c.Close() })
	return c
}

// dialUDP connects a socket from the guest to an address.
func (g *guest) dialUDP(to string) *gonet.UDPConn {
	g.Helper()
	at := netip.MustParseAddrPort(to)
	c, err := gonet.DialUDP(g.stack, nil, &tcpip.FullAddress{NIC: 1, Addr: toTCPIP(at.Addr()), Port: at.Port()}, family(at.Addr()))
	if err != nil {
		g.Fatalf("cannot send to %s: %v", to, err)
	}
	c.SetDeadline(time.Now().Add(patience))
	g.Cleanup(func() { c.Close() })
	return c
}

// listen serves connections at a port of the guest, at all of its addresses.
func (g *guest) listen(port uint16, each func(net.Conn)) {
	g.Helper()
	for _, a := range g.Addresses {
		l, err := gonet.ListenTCP(g.stack, tcpip.FullAddress{NIC: 1, Addr: toTCPIP(a), Port: port}, family(a))
		if err != nil {
			g.Fatal(err)
		}
		serveAll(g, l, func() { l.Shutdown(); l.Close() }, each)
	}
}

// listenUDP answers datagrams at a port of the guest.
func (g *guest) listenUDP(port uint16) {
	g.Helper()
	for _, a := range g.Addresses {
		c, err := gonet.DialUDP(g.stack, &tcpip.FullAddress{NIC: 1, Addr: toTCPIP(a), Port: port}, nil, family(a))
		if err != nil {
			g.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			echoDatagrams(c)
		}()
		g.Cleanup(func() { c.Close(); <-done })
	}
}

// serveAll serves a listener until the test ends.
func serveAll(tb testing.TB, l net.Listener, stop func(), each func(net.Conn)) {
	var conns sync.WaitGroup
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { defer c.Close(); each(c) })
		}
	}()
	tb.Cleanup(func() { stop(); <-done; conns.Wait() })
}

// serveOutside serves connections on this host's loopback and returns the port.
func serveOutside(tb testing.TB, address string, each func(net.Conn)) uint16 {
	tb.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		tb.Fatal(err)
	}
	serveAll(tb, l, func() { l.Close() }, each)
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// echoOutside answers datagrams on this host's loopback and returns the port.
func echoOutside(tb testing.TB, address string) uint16 {
	tb.Helper()
	c, err := net.ListenPacket("udp", net.JoinHostPort(address, "0"))
	if err != nil {
		tb.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); echoDatagrams(c) }()
	tb.Cleanup(func() { c.Close(); <-done })
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

func echoDatagrams(c net.PacketConn) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = c.WriteTo(buf[:n], from) // datagrams may be lost
	}
}

// echo answers with what it gets, and ends when its peer does.
func echo(c net.Conn) { _, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) }

// hear reads a text of the length of want.
func hear(tb testing.TB, r io.Reader, want string) {
	tb.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil || string(got) != want {
		tb.Fatalf("heard %q, %v; want %q", got[:n], err, want)
	}
}

func say(tb testing.TB, w io.Writer, text string) {
	tb.Helper()
	if _, err := w.Write([]byte(text)); err != nil {
		tb.Fatalf("cannot say %q: %v", text, err)
	}
}

// published returns the host's side of a VM's n-th publication.
func published(r netswitch.Result, vm string, n int) string {
	p := r.Endpoints[vm].Published[n]
	return netip.AddrPortFrom(p.HostIP, p.HostPort).String()
}

func publish(protocol, hostIP string, hostPort, port uint16) hostapi.Publication {
	return hostapi.Publication{Protocol: protocol, HostIP: ip(hostIP), HostPort: hostPort, Port: port}
}

// cable is a guest's network card.
type cable struct {
	*guest
	dispatcher stack.NetworkDispatcher
	attached   chan struct{}
	mu         sync.Mutex
	batch      []byte
}

func (c *cable) read() {
	r := frames.NewReader(c.conn)
	for {
		batch, err := r.Batch()
		if err != nil {
			return
		}
		for f := range frames.All(batch) {
			if c.seen != nil {
				c.seen(f)
			}
			pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(f)})
			pkt.LinkHeader().Consume(frames.HeaderLen)
			if frames.To(f).Group() {
				pkt.PktType = tcpip.PacketBroadcast
			}
			c.dispatcher.DeliverNetworkPacket(tcpip.NetworkProtocolNumber(etherType(f)), pkt)
			pkt.DecRef()
		}
	}
}

func (c *cable) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.batch = c.batch[:0]
	for _, pkt := range list.AsSlice() {
		to := frames.Address([]byte(pkt.EgressRoute.RemoteLinkAddress))
		at := len(c.batch)
		c.batch = appendPacket(c.batch, to, pkt.Size()+frames.HeaderLen, pkt)
		copy(c.batch[at+frames.Prefix+6:], c.guest.mac[:])
	}
	c.sent.Add(int64(list.Len()))
	_, _ = c.conn.Write(c.batch) // the switch may be gone
	return list.Len(), nil
}

func (*cable) MTU() uint32                             { return defaultMTU }
func (*cable) SetMTU(uint32)                           {}
func (*cable) MaxHeaderLength() uint16                 { return 0 }
func (c *cable) LinkAddress() tcpip.LinkAddress        { return tcpip.LinkAddress(c.guest.mac[:]) }
func (*cable) SetLinkAddress(tcpip.LinkAddress)        {}
func (*cable) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (*cable) AddHeader(*stack.PacketBuffer)           {}
func (*cable) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (*cable) Wait()                                   {}
func (*cable) Close()                                  {}
func (*cable) SetOnCloseAction(func())                 {}
func (c *cable) IsAttached() bool                      { return c.dispatcher != nil }
func (c *cable) Attach(d stack.NetworkDispatcher)      { c.dispatcher = d }
func (*cable) GSOMaxSize() uint32                      { return stack.GVisorGSOMaxSize }
func (*cable) SupportedGSO() stack.SupportedGSO        { return stack.GVisorGSOSupported }
func (*cable) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityResolutionRequired
}

// isRefused reports whether an error of a guest's netstack says that the peer refused.
func isRefused(err error) bool {
	return err != nil && (errors.Is(err, syscall.ECONNREFUSED) || bytes.Contains([]byte(err.Error()), []byte("refused")))
}

// abort resets all connections of a netstack.
func abort(s *stack.Stack) {
	for _, e := range s.RegisteredEndpoints() {
		e.Abort()
	}
}
