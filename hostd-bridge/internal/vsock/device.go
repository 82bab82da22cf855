package vsock

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"
)

// Bounds on what a guest can make the host hold.
const (
	// MaxConns is how many connections one guest may have, both ways together.
	MaxConns = 1024
	// maxAccepted is how many connections a guest may have to one port of the host: its tether has one or two. Anyone in the guest can
	// connect, and each connection costs its host buffers.
	maxAccepted = 16
	// maxPending is how many packets may wait for the guest's buffers before the host stops to read what the guest
	// sends, so that a guest that gives no buffers cannot pile up answers.
	maxPending = 256
	// bufAlloc is the size of a connection's receive buffer, in bytes; it is allocated as it fills. Linux's own
	// default (VIRTIO_VSOCK_DEFAULT_BUFFER_SIZE).
	bufAlloc = 256 << 10
	// firstPort is where the host's own port numbers begin when it dials.
	firstPort = 1 << 30
)

// Device is the host's end of one guest's vsock, played in user space. The backend (vhost.go) tells it where the rings
// lie and when they may be touched, and passes on the guest's kicks.
//
// It has two locks. in.mu is held while the guest's packets are read. mu guards everything else, also the state of all
// connections; functions that want it held end in Locked. When both are held in.mu was taken first. There is no goroutine
// for sending: the writer of a connection puts its bytes into the guest's buffers itself.
type Device struct {
	log *slog.Logger
	in  inbound

	mu        sync.Mutex
	out       outbound
	cid       uint64    // the guest's
	dialable  bool      // the guest answers from cid: a fork does after its first packet
	mayDial   sync.Cond // dialable or closed was set
	closed    bool
	conns     map[connKey]*stream
	listeners map[uint32]*listener
	lastPort  uint32
	accept    int // connections to one port: maxAccepted, but for tests
}

type connKey struct{ local, peer uint32 }

// Queues of virtio-vsock as vhost numbers them (virtio 1.2, 5.10.2).
const (
	queueOut = 0 // "rx": host to guest
	queueIn  = 1 // "tx": guest to host
)

// queue is what the backend knows of a ring when it starts the device.
type queue struct {
	num       uint32
	addrs     ringAddrs
	base      uint16
	interrupt func() // tells the guest of used buffers
}

var _ Transport = (*Device)(nil)

// NewDevice returns a device whose guest is not up yet. It may be dialled and listened on at once. The guest of a fork begins
// with its parent's CID and would answer from that, so a dial waits until the guest has sent a packet from its own.
func NewDevice(fork bool, log *slog.Logger) *Device {
	d := &Device{log: log, conns: map[connKey]*stream{}, listeners: map[uint32]*listener{}, lastPort: firstPort, dialable: !fork, accept: maxAccepted}
	d.mayDial.L = &d.mu
	d.out.waiting = map[*stream]struct{}{}
	d.out.space.L = &d.mu
	return d
}

// start lets the device work on the rings, of which the backend has to kick both. It goes on with the connections it
// had: the guest may only have been paused.
func (d *Device) start(cid uint32, mem memory, rs regions, queues [2]queue) error {
	out, err := newRing(mem, queues[queueOut])
	if err != nil {
		return err
	}
	in, err := newRing(mem, queues[queueIn])
	if err != nil {
		return err
	}
	if err := keepApart(out, in); err != nil {
		return err
	}
	d.in.mu.Lock()
	d.mu.Lock()
	d.cid = uint64(cid)
	d.out.ring, d.out.regions = out, rs
	d.in.ring, d.in.regions = in, rs
	d.mu.Unlock()
	d.in.mu.Unlock()
	return nil
}

// stop returns when no ring is touched any more, with the next available entry of each. ok is false when the device was
// not running.
func (d *Device) stop() (bases [2]uint16, ok bool) {
	d.mu.Lock()
	if ok = d.out.ring != nil; ok {
		bases[queueOut] = d.out.ring.next
	}
	d.out.ring = nil
	d.out.space.Broadcast()
	d.mu.Unlock()
	d.in.mu.Lock()
	defer d.in.mu.Unlock()
	if d.in.ring != nil {
		bases[queueIn] = d.in.ring.next
	}
	d.in.ring = nil
	return bases, ok
}

// setRegions replaces the memory table.
func (d *Device) setRegions(rs regions) {
	d.in.mu.Lock()
	defer d.in.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.in.regions, d.out.regions = rs, rs
}

// failLocked stops the use of rings that the guest has spoilt; a reset of the guest makes new ones.
func (d *Device) failLocked(err error) {
	if d.out.ring == nil {
		return
	}
	d.log.Error("vsock stopped until the guest restarts its driver", "err", err)
	d.out.ring = nil
	d.out.space.Broadcast()
	d.endAllLocked()
}

// Reset ends every connection: the guest's kernel has been started anew and knows nothing of them.
func (d *Device) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.endAllLocked()
}

// Close ends every connection and listener. What was received can still be read.
func (d *Device) Close() error {
	d.stop()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	d.mayDial.Broadcast()
	d.endAllLocked()
	for _, l := range d.listeners {
		l.shutLocked()
	}
	return nil
}

// endAllLocked ends every connection and sends nothing.
func (d *Device) endAllLocked() {
	for _, s := range d.conns {
		s.removeLocked(syscall.ECONNRESET)
	}
	d.out.pending = nil
	d.out.space.Broadcast()
}

// Listen implements Transport.
func (d *Device) Listen(port uint32) (net.Listener, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, net.ErrClosed
	}
	if d.listeners[port] != nil {
		return nil, fmt.Errorf("cannot listen on vsock port %d: %w", port, ErrPortInUse)
	}
	l := &listener{dev: d, port: port, queue: make(chan *stream, d.accept), done: make(chan struct{})}
	d.listeners[port] = l
	return l, nil
}

// Dial implements Transport. The error is ECONNREFUSED when the guest does not listen on the port.
func (d *Device) Dial(ctx context.Context, port uint32) (Conn, error) {
	s, err := d.dial(ctx, port)
	if err != nil {
		return nil, fmt.Errorf("cannot dial vsock port %d: %w", port, err)
	}
	return s, nil
}

func (d *Device) dial(ctx context.Context, port uint32) (*stream, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.awaitGuestLocked(ctx); err != nil {
		return nil, err
	}
	if len(d.conns) >= MaxConns {
		return nil, ErrTooManyConns
	}
	s := d.addLocked(connKey{local: d.freePortLocked(port), peer: port})
	s.sendLocked(opRequest, 0)
	d.flushLocked()
	stop := context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		s.writable.Broadcast()
	})
	defer stop()
	for s.state == stateRequested && ctx.Err() == nil {
		s.writable.Wait()
	}
	if s.state == stateRequested {
		s.abortLocked(context.Cause(ctx))
		d.flushLocked()
	}
	if s.state == stateRefused {
		return nil, s.err
	}
	return s, nil // if the guest has closed it again already, the first Read says so
}

// awaitGuestLocked waits until the guest can be dialled.
func (d *Device) awaitGuestLocked(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.mayDial.Broadcast()
	})
	defer stop()
	for !d.dialable && !d.closed && ctx.Err() == nil {
		d.mayDial.Wait()
	}
	if d.closed {
		return net.ErrClosed
	}
	return context.Cause(ctx)
}

// freePortLocked is a port of the host with which no connection to the guest's port exists.
func (d *Device) freePortLocked(peer uint32) uint32 {
	for {
		if d.lastPort++; d.lastPort == 1<<32-1 {
			d.lastPort = firstPort
		}
		if d.conns[connKey{d.lastPort, peer}] == nil {
			return d.lastPort
		}
	}
}

// addLocked makes a connection that was requested.
func (d *Device) addLocked(k connKey) *stream {
	s := &stream{dev: d, key: k}
	s.readable.L, s.writable.L = &d.mu, &d.mu
	d.conns[k] = s
	return s
}

// acceptLocked answers a guest's request for a connection.
func (d *Device) acceptLocked(k connKey, h header) {
	l := d.listeners[k.local]
	if l == nil || l.held >= cap(l.queue) || len(d.conns) >= MaxConns {
		d.refuseLocked(k)
		return
	}
	s := d.addLocked(k)
	s.accepted = l
	l.held++
	s.state = s.state.after(eventAnswered)
	s.creditLocked(h)
	s.sendLocked(opResponse, 0)
	l.queue <- s // has room: what it holds is counted in held
}

// refuseLocked answers a packet that belongs to no connection.
func (d *Device) refuseLocked(k connKey) {
	d.postLocked(packet{header: header{srcPort: k.local, dstPort: k.peer, op: opReset}})
}
