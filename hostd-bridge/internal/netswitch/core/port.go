package core

import (
	"context"
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containervm/containervm/hostd-bridge/internal/frames"
	"github.com/containervm/containervm/hostd-bridge/internal/netswitch"
)

const (
	// helloTime is how long a new connection may take to say whose it is.
	helloTime = 5 * time.Second
	// maxQueue bounds what waits for a card, in bytes: some 700 frames, which is what a network card's own rings hold. Longer queues
	// would be waited through by everything else that the guest is sent.
	maxQueue = 1 << 20
	// keptQueue is how much of its memory an idle queue keeps, in bytes.
	keptQueue = 64 << 10
)

// port is the connection of a card's supervisor.
type port struct {
	conn  net.Conn
	queue queue
}

// queue is what waits to be written to a port: frames with their lengths, one after the other. Many put, one takes.
type queue struct {
	mu      sync.Mutex
	waiting []byte
	wake    chan struct{}
}

// put appends frames with their lengths and returns how many of them, and of their bytes, found room. It never waits.
func (q *queue) put(batch []byte) (n, size int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	room := maxQueue - len(q.waiting)
	for f := range frames.All(batch) {
		if size+len(f)+frames.Prefix > room {
			break
		}
		size += len(f) + frames.Prefix
		n++
	}
	q.append(batch[:size])
	return n, size
}

// append adds bytes under the lock, and wakes the one who takes.
func (q *queue) append(b []byte) {
	if len(b) == 0 {
		return
	}
	first := len(q.waiting) == 0
	q.waiting = append(q.waiting, b...)
	if first {
		q.signal()
	}
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default: // it is awake already
	}
}

// take returns all that waits. spent is the memory of the time before.
func (q *queue) take(spent []byte) []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	if cap(spent) > keptQueue && len(q.waiting) <= keptQueue/4 {
		spent = nil
	}
	b := q.waiting
	q.waiting = spent[:0]
	return b
}

// serveCards lets supervisors in until the listener is closed, and returns when all ports are gone.
func (c *core) serveCards(l *net.UnixListener) {
	var ports sync.WaitGroup
	defer ports.Wait()
	for {
		conn, err := acceptUnix(l)
		if err != nil {
			c.cancel() // the process ends: what waits on a connection ends with it
			return
		}
		ports.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(c.ctx, func() { conn.Close() })()
			c.serveCard(conn)
		})
	}
}

// serveCard passes a card's frames on, and what is for it to it, until its connection ends.
func (c *core) serveCard(conn net.Conn) {
	conn.SetReadDeadline(time.Now().Add(helloTime))
	hello, mac, err := frames.ReadHello(conn)
	conn.SetReadDeadline(time.Time{})
	if err != nil {
		c.log.Debug("nobody's connection", "err", err)
		return
	}
	e := c.table.Load().cards[mac]
	if e == nil || e.VM != hello.VM { // it tries again
		return
	}
	p := &port{conn: conn, queue: queue{wake: make(chan struct{}, 1)}}
	if !e.attach(p) {
		return
	}
	var writing sync.WaitGroup
	ended := make(chan struct{})
	writing.Go(func() { p.write(ended) })
	c.read(e.member, p)
	e.detach(p)
	close(ended)
	conn.Close()
	writing.Wait()
}

// write sends what is queued, as much as there is with one call, until the port ends.
func (p *port) write(ended <-chan struct{}) {
	var spent []byte
	for {
		select {
		case <-p.queue.wake:
		case <-ended:
			return
		}
		batch := p.queue.take(spent)
		if len(batch) == 0 {
			continue
		}
		if _, err := p.conn.Write(batch); err != nil {
			p.conn.Close() // the reader sees it
			return
		}
		spent = batch
	}
}

// read takes a card's frames and passes them on.
func (c *core) read(m *member, p *port) {
	r := frames.NewReader(p.conn)
	for {
		batch, err := r.Batch()
		if err != nil {
			return
		}
		e := m.card.Load()
		if e == nil {
			return
		}
		c.pass(c.table.Load(), e, batch)
	}
}

// pass sends each frame of a batch where it belongs, in their order. Frames in a row for one card are queued at once.
func (c *core) pass(t *table, e *card, batch []byte) {
	var to *card // of the frames from begin on
	var n, size int64
	begin, at := 0, 0
	for f := range frames.All(batch) {
		dest, all, mine := route(t, e, f)
		if to != nil && dest != to {
			to.receive(batch[begin:at])
		}
		if dest != to {
			to, begin = dest, at
		}
		if mine {
			c.gateway.input(t, e, f)
		}
		if all {
			flood(t, e, f)
		}
		at += frames.Prefix + len(f)
		n++
		size += int64(len(f))
	}
	if to != nil {
		to.receive(batch[begin:at])
	}
	e.sentFrames.Add(n)
	e.sentBytes.Add(size)
}

// route decides for whom a frame is: for one card, for all others, for the gateway (which is one of all), or for nobody.
func route(t *table, e *card, f []byte) (to *card, all, mine bool) {
	if frames.From(f) != e.mac || claims(t, e, f) {
		e.forged.Add(1)
		return nil, false, false
	}
	dest := frames.To(f)
	if dest == gatewayMAC || dest.Group() {
		return nil, dest.Group(), true
	}
	if to = t.cards[dest]; to == nil || to == e {
		e.unknown.Add(1)
		return nil, false, false
	}
	return to, false, false
}

// flood sends a frame to all cards but from.
func flood(t *table, from *card, f []byte) {
	whole := frames.Append(nil, f)
	for _, dest := range t.order {
		if dest != from {
			dest.receive(whole)
		}
	}
}

// Types of Ethernet frames (IEEE 802 numbers), and of what is in them.
const (
	etherIPv4  = 0x0800
	etherARP   = 0x0806
	etherIPv6  = 0x86dd
	etherVLAN  = 0x8100
	etherQinQ  = 0x88a8
	icmpv6NA   = 136 // RFC 4861, 4.4
	protoICMP6 = 58
)

func etherType(f []byte) uint16 { return binary.BigEndian.Uint16(f[12:14]) }

// claims reports whether a frame says that its sender has an address which another card, or the gateway, was given; and whether it
// has a tag of a VLAN, of which there are none. Other addresses are the guests' own matter.
func claims(t *table, e *card, f []byte) bool {
	ip := f[frames.HeaderLen:]
	switch etherType(f) {
	case etherARP:
		if len(ip) < arpLen {
			return true
		}
		return t.anothers(e, addr(ip[14:18])) // sender's protocol address, RFC 826
	case etherIPv6:
		if len(ip) >= 40+24 && ip[6] == protoICMP6 && ip[40] == icmpv6NA {
			return t.anothers(e, addr(ip[48:64])) // target, RFC 4861, 4.4
		}
	case etherVLAN, etherQinQ:
		return true
	}
	return false
}

// member is what of an endpoint goes on from one Config to the next.
type member struct {
	core *core
	card atomic.Pointer[card] // as it was told last; nil: it has left
	port atomic.Pointer[port]
	counters
	published []*publication // core.applying

	mu    sync.Mutex
	left  bool
	alive life // of its sessions
}

// counters of a member; what they mean is in EndpointStats.
type counters struct {
	sentFrames, sentBytes, receivedFrames, receivedBytes, forged, dropped, unknown, refused atomic.Int64
	sessions, dialing, pings, queries, nameConns                                            atomic.Int64 // that there are now
}

func newMember(c *core) *member { return &member{core: c, alive: newLife(c.ctx)} }

// attach makes p the card's connection in the place of an older one. False: the card has left.
func (m *member) attach(p *port) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left {
		return false
	}
	if before := m.port.Swap(p); before != nil {
		before.conn.Close()
	}
	return true
}

func (m *member) detach(p *port) { m.port.CompareAndSwap(p, nil) }

// receive queues frames, with their lengths, for the card.
func (m *member) receive(batch []byte) {
	p := m.port.Load()
	if p == nil {
		return
	}
	n, size := p.queue.put(batch)
	m.receivedFrames.Add(int64(n))
	m.receivedBytes.Add(int64(size - n*frames.Prefix))
	if size < len(batch) {
		lost := int64(0)
		for range frames.All(batch[size:]) {
			lost++
		}
		m.dropped.Add(lost)
	}
}

// leave ends the member with all that is its.
func (m *member) leave() {
	m.unpublish()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left = true
	m.card.Store(nil)
	m.alive.cancel()
	if p := m.port.Swap(nil); p != nil {
		p.conn.Close()
	}
}

// life is the present life of the member's sessions.
func (m *member) life() life {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.alive
}

// renew ends the member's sessions, and no more.
func (m *member) renew() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.left {
		m.alive.cancel()
		m.alive = newLife(m.core.ctx)
	}
}

func (m *member) stats() netswitch.EndpointStats {
	return netswitch.EndpointStats{
		Connected:  m.port.Load() != nil,
		SentFrames: m.sentFrames.Load(), SentBytes: m.sentBytes.Load(),
		ReceivedFrames: m.receivedFrames.Load(), ReceivedBytes: m.receivedBytes.Load(),
		Forged: m.forged.Load(), Dropped: m.dropped.Load(), Unknown: m.unknown.Load(), Refused: m.refused.Load(),
		Sessions: m.sessions.Load(),
	}
}
