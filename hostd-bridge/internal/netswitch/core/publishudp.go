package core

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// maxClients bounds the clients of one published port of UDP that have sessions at once.
const maxClients = 2048

// serveDatagrams passes datagrams of clients to the guest, each client's in a session of its own, until the publication is closed.
func (c *core) serveDatagrams(p *publication) {
	d := &datagrams{core: c, p: p, open: map[netip.AddrPort]*datagramSession{}}
	defer d.close()
	tellAddress(p.udp)
	buf, control := make([]byte, 64<<10), make([]byte, 128)
	for {
		n, controls, _, client, err := p.udp.ReadMsgUDPAddrPort(buf, control)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // of one datagram
		}
		if s := d.session(client); s != nil {
			s.last.Store(time.Now().UnixNano())
			s.via.Store(replyFrom(control[:controls]))
			s.guest.send(buf[:n])
		}
	}
}

// datagrams are the sessions of a published port, by client.
type datagrams struct {
	core    *core
	p       *publication
	mu      sync.Mutex
	open    map[netip.AddrPort]*datagramSession
	running sync.WaitGroup
}

type datagramSession struct {
	guest *guestConn
	last  atomic.Int64           // when the client or the guest sent, in nanoseconds
	via   atomic.Pointer[[]byte] // control message with the address that the client knows
}

// session returns a client's session, a new one where there is none; nil: it is refused.
func (d *datagrams) session(client netip.AddrPort) *datagramSession {
	d.mu.Lock()
	s, n := d.open[client], len(d.open)
	d.mu.Unlock()
	if s != nil || n >= maxClients {
		return s
	}
	to := d.p.to.Load()
	life := to.member.life()
	e := to.member.card.Load()
	if e == nil || e.port.Load() == nil {
		return nil
	}
	a, err := d.core.table.Load().reach(e, client.Addr().Unmap().Is4())
	if err != nil || !e.begin() {
		return nil
	}
	guest, err := dialGuest(to.life, d.core.gateway.stack, udp.ProtocolNumber, netip.AddrPortFrom(a, to.port))
	if err != nil {
		e.end()
		return nil
	}
	s = &datagramSession{guest: guest}
	s.last.Store(time.Now().UnixNano())
	d.mu.Lock()
	d.open[client] = s
	d.mu.Unlock()
	d.running.Go(func() {
		defer e.end()
		d.answer(client, s, life, to.life)
	})
	return s
}

// answer passes what the guest sends back to the client, until neither has sent for a while, or the guest has left.
func (d *datagrams) answer(client netip.AddrPort, s *datagramSession, lives ...context.Context) {
	end := func() { s.guest.ep.Close() }
	for _, l := range lives {
		defer context.AfterFunc(l, end)()
	}
	var idle *time.Timer
	idle = time.AfterFunc(udpIdle, func() {
		if quiet := time.Since(time.Unix(0, s.last.Load())); quiet < udpIdle {
			idle.Reset(udpIdle - quiet)
		} else {
			end()
		}
	})
	defer idle.Stop()
	fromGuest(s.guest, func(b []byte) {
		s.last.Store(time.Now().UnixNano())
		_, _, _ = d.p.udp.WriteMsgUDPAddrPort(b, *s.via.Load(), client) // datagrams may be lost
	})
	d.mu.Lock()
	delete(d.open, client)
	d.mu.Unlock()
	s.guest.close()
}

// close waits for the end of all sessions: what they lead to has ended.
func (d *datagrams) close() { d.running.Wait() }

// tellAddress has the kernel say with each datagram to which of the host's addresses it came.
func tellAddress(c *net.UDPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { // one of them is of another family
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	})
}

// replyFrom makes of the control messages of a datagram the one that has the answer come from the address which it was sent to. The
// way there is chosen by the routes, not by the interface.
func replyFrom(control []byte) *[]byte {
	none := []byte(nil)
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return &none
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			info := unix.Inet4Pktinfo{Spec_dst: [4]byte(m.Data[4:8])}
			b := unix.PktInfo4(&info)
			return &b
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			info := unix.Inet6Pktinfo{Addr: [16]byte(m.Data[:16])}
			if a := netip.AddrFrom16(info.Addr); a.IsLinkLocalUnicast() {
				info.Ifindex = binary.NativeEndian.Uint32(m.Data[16:20])
			}
			b := unix.PktInfo6(&info)
			return &b
		}
	}
	return &none
}
