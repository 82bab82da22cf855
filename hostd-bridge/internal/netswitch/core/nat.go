package core

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Limits of an endpoint's sessions: a guest that opens all that it can leaves room for others.
const (
	maxSessions = 4096
	maxDialing  = 1024 // connections that wait for their peer; what comes beyond is asked again by the guest's TCP
	// maxTotal bounds the sessions of all endpoints. Each has a descriptor; the process may have as many as its hard limit says, of
	// which Go takes all.
	maxTotal = 50_000
)

const (
	// dialTime is how long a guest waits to hear that its peer does not answer: less than its own patience (Linux, tcp_syn_retries:
	// 127 s), so that it hears it at all.
	dialTime = 30 * time.Second
	// udpFirst and udpIdle are how long a session of datagrams without and with answers lasts after the last one: those of Linux's
	// connection tracking (nf_conntrack_udp_timeout, _stream).
	udpFirst = 30 * time.Second
	udpIdle  = 120 * time.Second
)

// begin counts a session of the member, or refuses it. The session calls end.
func (m *member) begin() bool {
	total := m.core.totals.sessions.Add(1)
	if m.sessions.Add(1) > maxSessions || total > maxTotal || total%64 == 0 && memoryInUse() > maxMemory {
		m.end()
		m.refused.Add(1)
		return false
	}
	return true
}

func (m *member) end() {
	m.sessions.Add(-1)
	m.core.totals.sessions.Add(-1)
}

// endpoints of a session's two ends, as the guest names them.
func ends(id stack.TransportEndpointID) (from, to netip.AddrPort) {
	return netip.AddrPortFrom(fromTCPIP(id.RemoteAddress), id.RemotePort), netip.AddrPortFrom(fromTCPIP(id.LocalAddress), id.LocalPort)
}

// connect takes a guest's request for a connection, in a goroutine of its own.
func (g *gateway) connect(r *tcp.ForwarderRequest) {
	from, to := ends(r.ID())
	t, e, life := g.core.from(from.Addr())
	if e == nil || !g.core.enter() {
		r.Complete(false) // it left meanwhile
		return
	}
	defer g.core.running.Done()
	target, ok := t.outward(g.core.outside, e, "tcp", to)
	if !ok {
		e.refused.Add(1)
	}
	if !ok || !e.begin() {
		r.Complete(true)
		return
	}
	defer e.end()
	host, err := g.dialOut(life, e, target)
	if err != nil {
		r.Complete(!errors.Is(err, errTooMany))
		return
	}
	defer host.Close()
	queue := new(waiter.Queue)
	ep, failed := r.CreateEndpoint(queue)
	r.Complete(failed != nil)
	if failed != nil {
		return
	}
	splice(newGuestConn(ep, queue), host, life)
}

// from returns the endpoint that has an address, if there is one, and how long a session lasts that the table allows it: what is allowed
// no more after an Apply ends with the life, which was begun before the table was looked at.
func (c *core) from(a netip.Addr) (*table, *card, context.Context) {
	e := c.table.Load().byAddr[a]
	if e == nil {
		return nil, nil, nil
	}
	life := e.life()
	t := c.table.Load()
	now := t.byAddr[a]
	if now == nil || now.member != e.member {
		return nil, nil, nil
	}
	return t, now, life
}

// dialOut connects to a peer in the guest's stead.
func (g *gateway) dialOut(life context.Context, e *card, to netip.AddrPort) (*net.TCPConn, error) {
	defer e.dialing.Add(-1)
	if e.dialing.Add(1) > maxDialing {
		e.refused.Add(1)
		return nil, errTooMany
	}
	ctx, cancel := context.WithTimeout(life, dialTime)
	defer cancel()
	conn, err := g.core.outside.dial(ctx, "tcp", to)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// mayExchange decides on the first datagram of a session.
func (g *gateway) mayExchange(id stack.TransportEndpointID) bool {
	t := g.core.table.Load()
	from, to := ends(id)
	e := t.byAddr[from.Addr()]
	if e == nil {
		return false
	}
	if _, ok := t.outward(g.core.outside, e, "udp", to); !ok {
		e.refused.Add(1)
		return false
	}
	return true
}

// exchange begins a session of datagrams, which has its first one already. It does not wait.
func (g *gateway) exchange(r *udp.ForwarderRequest) {
	from, to := ends(r.ID())
	t, e, life := g.core.from(from.Addr())
	if e == nil {
		return
	}
	target, ok := t.outward(g.core.outside, e, "udp", to)
	if !ok || !e.begin() {
		return
	}
	queue := new(waiter.Queue)
	ep, failed := r.CreateEndpoint(queue)
	if failed != nil || !g.core.enter() {
		e.end()
		return
	}
	guest := newGuestConn(ep, queue)
	go func() {
		defer g.core.running.Done()
		defer e.end()
		defer guest.close()
		host, err := g.core.outside.dial(life, "udp", target)
		if err != nil {
			return
		}
		relay(guest, host, life)
	}()
}

// relay passes datagrams both ways until there were none for a while, or life ends. It closes host.
func relay(guest *guestConn, host net.Conn, life context.Context) {
	defer context.AfterFunc(life, func() { host.Close() })()
	var last atomic.Int64 // when the guest sent, in nanoseconds
	last.Store(time.Now().UnixNano())
	var sending sync.WaitGroup
	sending.Go(func() {
		fromGuest(guest, func(b []byte) {
			last.Store(time.Now().UnixNano())
			_, _ = host.Write(b) // refused, or lost: datagrams may be
		})
	})
	idle := udpFirst
	for {
		host.SetReadDeadline(time.Now().Add(idle))
		err := readHost(host.(syscall.Conn), func(b []byte) error { guest.send(b); return nil })
		if err == nil {
			idle = udpIdle
		}
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) && time.Since(time.Unix(0, last.Load())) >= idle {
			break
		} // any other error is of one datagram: the peer's port is closed, and may be open for the next
	}
	host.Close()
	guest.ep.Close()
	sending.Wait()
}

// fromGuest calls each with what a guest sends in a session, until its end is closed.
func fromGuest(guest *guestConn, each func([]byte)) {
	for {
		err := guest.read(func(b []byte) error { each(b); return nil })
		if errors.Is(err, io.EOF) {
			return
		} // any other is of one datagram: nobody listened
	}
}
