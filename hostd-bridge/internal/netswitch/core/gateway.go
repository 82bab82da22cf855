package core

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/containervm/containervm/hostd-bridge/internal/frames"
	"github.com/containervm/containervm/hostd-bridge/internal/netswitch"
)

// theNIC is the netstack's only interface, in the network.
const theNIC = tcpip.NICID(1)

const (
	// bufferMin, bufferDefault and bufferMax bound each buffer of a connection in the netstack, in bytes. They grow as they are
	// used: the largest is what a fast guest can fill in the milliseconds that an emulated one takes to answer.
	bufferMin     = 4 << 10
	bufferDefault = 256 << 10
	bufferMax     = 1 << 20
	// maxConnecting bounds the connections of all endpoints that are being made; each endpoint has a limit of its own below that.
	maxConnecting = 4096
	// timeWait is how long the netstack remembers a connection that it ended first. Nothing is delayed for longer in a process.
	timeWait = 2 * time.Second
)

// gateway is the switch's own place in its network: the netstack, and what ends there.
type gateway struct {
	core  *core
	stack *stack.Stack
	link  *link
	pings *pings
	names map[netip.Addr]func() // ends the name server at an address
}

func newGateway(c *core) (*gateway, error) {
	g := &gateway{core: c, names: map[netip.Addr]func(){}}
	g.link = &link{core: c}
	g.link.mtu.Store(defaultMTU)
	g.pings = newPings(c)
	g.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{arp.NewProtocol, ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	if err := tune(g.stack); err != nil {
		g.stack.Destroy()
		return nil, err
	}
	// Promiscuous: it takes packets to all addresses, and the forwarders stand for them. Spoofing: it answers in their names.
	for _, err := range []tcpip.Error{
		g.stack.CreateNIC(theNIC, g.link),
		g.stack.SetPromiscuousMode(theNIC, true),
		g.stack.SetSpoofing(theNIC, true),
	} {
		if err != nil {
			g.stack.Destroy()
			return nil, fmt.Errorf("cannot make the gateway's interface: %v", err)
		}
	}
	g.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: theNIC}, {Destination: header.IPv6EmptySubnet, NIC: theNIC}})
	connections := tcp.NewForwarder(g.stack, bufferDefault, maxConnecting, g.connect)
	g.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, connections.HandlePacket)
	sessions := udp.NewForwarder(g.stack, g.exchange)
	g.stack.SetTransportProtocolHandler(udp.ProtocolNumber, func(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
		return g.mayExchange(id) && sessions.HandlePacket(id, pkt) // false: the guest is told that the port is unreachable
	})
	return g, nil
}

// tune sets what differs from the netstack's defaults.
func tune(s *stack.Stack) error {
	sack, moderate, cubic, wait := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true), tcpip.CongestionControlOption("cubic"), tcpip.TCPTimeWaitTimeoutOption(timeWait)
	send := tcpip.TCPSendBufferSizeRangeOption{Min: bufferMin, Default: bufferDefault, Max: bufferMax}
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: bufferMin, Default: bufferDefault, Max: bufferMax}
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &cubic, &wait, &send, &receive} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fmt.Errorf("cannot set up TCP: %v (%T)", err, option)
		}
	}
	return nil
}

// close ends the netstack and all in it.
func (g *gateway) close() {
	for _, end := range g.names {
		end()
	}
	g.stack.Destroy()
}

// settings makes the gateway's own addresses those of the Config.
func (g *gateway) settings(before, now netswitch.Config) error {
	g.link.mtu.Store(mtuOf(now))
	for _, p := range before.Gateways {
		if !slices.Contains(now.Gateways, p) {
			g.removeAddress(p.Addr())
		}
	}
	for i, p := range now.Gateways {
		if slices.Contains(before.Gateways, p) {
			continue
		}
		if err := g.addAddress(p); err != nil {
			for _, added := range now.Gateways[:i] {
				g.removeAddress(added.Addr())
			}
			return err
		}
	}
	return nil
}

func (g *gateway) addAddress(p netip.Prefix) error {
	a := tcpip.ProtocolAddress{Protocol: family(p.Addr()), AddressWithPrefix: tcpip.AddressWithPrefix{Address: toTCPIP(p.Addr()), PrefixLen: p.Bits()}}
	if err := g.stack.AddProtocolAddress(theNIC, a, stack.AddressProperties{}); err != nil {
		return fmt.Errorf("cannot have the address %v: %v", p, err)
	}
	end, err := g.core.dns.serve(g.stack, p.Addr())
	if err != nil {
		g.stack.RemoveAddress(theNIC, a.AddressWithPrefix.Address)
		return err
	}
	g.names[p.Addr()] = end
	return nil
}

func (g *gateway) removeAddress(a netip.Addr) {
	if end := g.names[a]; end != nil {
		delete(g.names, a)
		end()
	}
	g.stack.RemoveAddress(theNIC, toTCPIP(a)) // it may not be there
}

// neighbours tells the netstack who has which address: it asks nobody, so nobody can tell it lies.
func (g *gateway) neighbours(before, now *table) {
	for a, e := range before.byAddr {
		if n := now.byAddr[a]; n == nil || n.mac != e.mac {
			g.stack.RemoveNeighbor(theNIC, family(a), toTCPIP(a))
		}
	}
	for a, e := range now.byAddr {
		if b := before.byAddr[a]; b == nil || b.mac != e.mac {
			g.stack.AddStaticNeighbor(theNIC, family(a), toTCPIP(a), tcpip.LinkAddress(e.mac[:]))
		}
	}
}

// input takes a frame of an endpoint that is for the gateway.
func (g *gateway) input(t *table, e *card, f []byte) {
	switch admit(t, e, f) {
	case deliver:
		g.link.deliver(f)
	case ping:
		g.pings.request(t, e, f)
	case refuse:
		answerUnreachable(t, e, f)
	}
}

// link is the netstack's interface (stack.LinkEndpoint), which writes into the cards' queues.
type link struct {
	core       *core
	mtu        atomic.Uint32
	dispatcher atomic.Pointer[stack.NetworkDispatcher]
}

func (l *link) deliver(f []byte) {
	d := l.dispatcher.Load()
	if d == nil {
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(f)})
	pkt.LinkHeader().Consume(frames.HeaderLen)
	pkt.RXChecksumValidated = true // the frames came through memory: there is nothing that could have harmed them
	(*d).DeliverNetworkPacket(tcpip.NetworkProtocolNumber(etherType(f)), pkt)
	pkt.DecRef()
}

// WritePackets queues what the netstack sends.
func (l *link) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	t := l.core.table.Load()
	packets := list.AsSlice()
	for len(packets) > 0 {
		to := frames.Address([]byte(packets[0].EgressRoute.RemoteLinkAddress))
		n := 1
		for n < len(packets) && packets[n].EgressRoute.RemoteLinkAddress == packets[0].EgressRoute.RemoteLinkAddress {
			n++
		}
		if to.Group() {
			for _, e := range t.order {
				e.send(to, packets[:n])
			}
		} else if e := t.cards[to]; e != nil {
			e.send(to, packets[:n])
		}
		packets = packets[n:]
	}
	return list.Len(), nil
}

// send queues packets of the gateway for the card.
func (m *member) send(to frames.Address, packets []*stack.PacketBuffer) {
	p := m.port.Load()
	if p == nil {
		return
	}
	var sent, bytes int64
	q := &p.queue
	q.mu.Lock()
	first := len(q.waiting) == 0
	for _, pkt := range packets {
		size := pkt.Size() + frames.HeaderLen
		if len(q.waiting)+size+frames.Prefix > maxQueue {
			break
		}
		q.waiting = appendPacket(q.waiting, to, size, pkt)
		sent++
		bytes += int64(size)
	}
	if first && sent > 0 {
		q.signal()
	}
	q.mu.Unlock()
	m.receivedFrames.Add(sent)
	m.receivedBytes.Add(bytes)
	m.dropped.Add(int64(len(packets)) - sent)
}

// appendPacket appends a packet of the netstack as a frame of size bytes, with its length.
func appendPacket(b []byte, to frames.Address, size int, pkt *stack.PacketBuffer) []byte {
	b = append(b, byte(size>>24), byte(size>>16), byte(size>>8), byte(size))
	b = append(b, to[:]...)
	b = append(b, gatewayMAC[:]...)
	b = append(b, byte(pkt.NetworkProtocolNumber>>8), byte(pkt.NetworkProtocolNumber))
	views, skip := pkt.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		s := v.AsSlice()
		n := min(skip, len(s))
		skip -= n
		b = append(b, s[n:]...)
	}
	return b
}

// MTU and those below are stack.LinkEndpoint's.
func (l *link) MTU() uint32                           { return l.mtu.Load() }
func (l *link) SetMTU(mtu uint32)                     { l.mtu.Store(mtu) }
func (*link) MaxHeaderLength() uint16                 { return 0 } // send makes the header
func (*link) LinkAddress() tcpip.LinkAddress          { return tcpip.LinkAddress(gatewayMAC[:]) }
func (*link) SetLinkAddress(tcpip.LinkAddress)        {}
func (*link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (*link) AddHeader(*stack.PacketBuffer)           {}
func (*link) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (*link) Wait()                                   {}
func (*link) Close()                                  {}
func (*link) SetOnCloseAction(func())                 {}
func (l *link) IsAttached() bool                      { return l.dispatcher.Load() != nil }
func (*link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityResolutionRequired | stack.CapabilityRXChecksumOffload
}

// Attach sets where frames of guests go to; nil: nowhere.
func (l *link) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		l.dispatcher.Store(nil)
		return
	}
	l.dispatcher.Store(&d)
}

// GSOMaxSize and SupportedGSO have the netstack work on segments that are cut into packets only at the end.
func (*link) GSOMaxSize() uint32               { return stack.GVisorGSOMaxSize }
func (*link) SupportedGSO() stack.SupportedGSO { return stack.GVisorGSOSupported }

func toTCPIP(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func fromTCPIP(a tcpip.Address) netip.Addr { return addr(a.AsSlice()) }

func family(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

var errNoAddress = errors.New("the endpoint has no address that the gateway could reach")

// reach returns the endpoint's address by which the gateway reaches it, of the preferred family where there is one.
func (t *table) reach(e *card, v4 bool) (netip.Addr, error) {
	for _, want := range []bool{v4, !v4} {
		for _, a := range e.Addresses {
			if a.Is4() == want && t.gateways(want) {
				return a, nil
			}
		}
	}
	return netip.Addr{}, errNoAddress
}

// life is how long something goes on.
type life struct {
	context.Context
	cancel context.CancelFunc
}

func newLife(parent context.Context) life {
	ctx, cancel := context.WithCancel(parent)
	return life{ctx, cancel}
}
