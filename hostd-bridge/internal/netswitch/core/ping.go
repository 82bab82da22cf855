package core

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/icmp"

	"github.com/containervm/containervm/hostd-bridge/internal/frames"
)

const (
	// maxPings bounds an endpoint's echo sessions: one for each peer and program that asks.
	maxPings = 64
	// pingIdle is how long an echo session lasts after the last packet: nf_conntrack_icmp_timeout of Linux.
	pingIdle = 30 * time.Second
)

// pings are the sessions of echo requests to the outside, each a socket of the host that may send nothing else (icmp(7),
// ping_group_range).
type pings struct {
	core *core
	mu   sync.Mutex
	open map[pingKey]*icmp.PacketConn
}

type pingKey struct {
	from, to netip.Addr
	id       uint16
}

func newPings(c *core) *pings { return &pings{core: c, open: map[pingKey]*icmp.PacketConn{}} }

// request passes an echo request on, which admit has let through. It does not wait.
func (p *pings) request(t *table, e *card, f []byte) {
	key, message := parseEcho(f)
	if t.isGateway(key.to) || t.config.Internal || t.forbidden(key.to) || !p.core.outside.unicast(key.to) {
		answerUnreachable(t, e, f)
		return
	}
	conn, err := p.session(e, key)
	if err != nil {
		answerUnreachable(t, e, f)
		return
	}
	// The kernel puts the socket's own identifier in, and the checksum.
	if _, err := conn.WriteTo(message, &net.UDPAddr{IP: key.to.AsSlice()}); err != nil {
		answerUnreachable(t, e, f)
	}
}

// parseEcho takes an echo request apart, of which admit has seen that it is one.
func parseEcho(f []byte) (pingKey, []byte) {
	p := f[frames.HeaderLen:]
	var key pingKey
	var message []byte
	if etherType(f) == etherIPv4 {
		key.from, key.to = addr(p[12:16]), addr(p[16:20])
		message = p[int(p[0]&15)*4 : binary.BigEndian.Uint16(p[2:])]
	} else {
		key.from, key.to = addr(p[8:24]), addr(p[24:40])
		message = p[40 : 40+int(binary.BigEndian.Uint16(p[4:]))]
	}
	key.id = binary.BigEndian.Uint16(message[4:])
	return key, message
}

// session returns the socket of an echo session, a new one where there is none.
func (p *pings) session(e *card, key pingKey) (*icmp.PacketConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if conn := p.open[key]; conn != nil {
		conn.SetReadDeadline(time.Now().Add(pingIdle))
		return conn, nil
	}
	if e.pings.Load() >= maxPings || !p.core.enter() {
		return nil, errTooMany
	}
	network, local := "udp6", "::"
	if key.to.Is4() {
		network, local = "udp4", "0.0.0.0"
	}
	conn, err := icmp.ListenPacket(network, local)
	if err != nil {
		p.core.running.Done()
		return nil, err
	}
	e.pings.Add(1)
	conn.SetReadDeadline(time.Now().Add(pingIdle))
	p.open[key] = conn
	go func() {
		defer p.core.running.Done()
		defer e.pings.Add(-1)
		p.answer(e, key, conn)
	}()
	return conn, nil
}

// answer passes replies to the guest until there were no requests for a while, or it has left.
func (p *pings) answer(e *card, key pingKey, conn *icmp.PacketConn) {
	defer context.AfterFunc(e.life(), func() { conn.Close() })()
	defer func() {
		p.mu.Lock()
		delete(p.open, key)
		p.mu.Unlock()
		conn.Close()
	}()
	reply := byte(icmpEchoReply)
	if key.to.Is6() {
		reply = icmpv6EchoReply
	}
	buf := make([]byte, frames.Max)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		peer, _ := from.(*net.UDPAddr)
		if n < 8 || buf[0] != reply || peer == nil || peer.AddrPort().Addr().Unmap() != key.to {
			continue
		}
		binary.BigEndian.PutUint16(buf[4:], key.id)
		sendICMP(e, key.to, key.from, buf[:n])
	}
}
