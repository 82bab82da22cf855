package publish

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/containervm/containervm/tether/link"
)

const (
	// dialTimeout is how long a container's port may take to answer.
	dialTimeout = 30 * time.Second
	// idleTime is how long a peer of a udp port is remembered that is not heard: Linux' nf_conntrack_udp_timeout_stream.
	idleTime = 2 * time.Minute
	// maxDatagram is the longest datagram, in bytes.
	maxDatagram = 65_535
	// queued datagrams of a peer wait for the link; more are lost, as on any network.
	queued = 64
)

// leader leads what comes to one socket.
type leader struct {
	*binding
	dial func(ctx context.Context, network string) (*link.ForwardStream, error)
	log  *slog.Logger
}

func (l leader) serve(socket io.Closer) {
	switch s := socket.(type) {
	case *net.TCPListener:
		l.serveTCP(s)
	case *net.UDPConn:
		l.serveUDP(s)
	}
}

// take waits for one of the container's slots.
func (b *binding) take() bool {
	select {
	case b.slots <- struct{}{}:
		return true
	case <-b.ctx.Done():
		return false
	}
}

func (b *binding) give() { <-b.slots }

func (l leader) serveTCP(socket *net.TCPListener) {
	for l.take() {
		conn, err := socket.AcceptTCP()
		if err != nil {
			l.give()
			return
		}
		l.work.Go(func() {
			defer l.give()
			l.connect(conn)
		})
	}
}

// connect leads one connection to its end. One that the container does not take is reset, as by a kernel that has no such port.
func (l leader) connect(conn *net.TCPConn) {
	defer conn.Close()
	ctx, cancel := context.WithTimeout(l.ctx, dialTimeout)
	far, err := l.dial(ctx, "tcp")
	cancel()
	if err != nil {
		l.log.Debug("a connection with a published port is refused", "err", err)
		_ = conn.SetLinger(0)
		return
	}
	defer far.Close()
	stop := context.AfterFunc(l.ctx, func() { conn.Close(); far.Close() })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() {
		if _, err := io.Copy(far, conn); err != nil {
			far.Close()
			return
		}
		_ = far.CloseWrite() // the other direction sees what broke
	})
	both.Go(func() {
		if _, err := io.Copy(conn, far); err != nil {
			_ = conn.SetLinger(0)
			conn.Close()
			return
		}
		_ = conn.CloseWrite()
	})
	both.Wait()
}

// serveUDP keeps a stream of the link for each peer that is heard.
func (l leader) serveUDP(socket *net.UDPConn) {
	peers := udpPeers{leader: l, socket: socket, known: map[netip.AddrPort]chan []byte{}}
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := socket.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil { // else the peer has gone
			peers.receive(from, append([]byte(nil), buf[:n]...))
		}
	}
}

// udpPeers are those of one socket.
type udpPeers struct {
	leader
	socket *net.UDPConn

	mu    sync.Mutex
	known map[netip.AddrPort]chan []byte // what they have sent
}

// receive passes on a datagram of a peer. It is lost when the peer sends faster than its container takes, or no slot is free for it.
func (u *udpPeers) receive(from netip.AddrPort, data []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	in, ok := u.known[from]
	if !ok {
		select {
		case u.slots <- struct{}{}:
		default:
			return
		}
		in = make(chan []byte, queued)
		u.known[from] = in
		u.work.Go(func() {
			defer u.give()
			u.converse(from, in)
		})
	}
	select {
	case in <- data:
	default:
	}
}

// converse leads a peer's datagrams until nothing was heard of either side for a while.
func (u *udpPeers) converse(from netip.AddrPort, in <-chan []byte) {
	defer func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.known, from)
	}()
	ctx, cancel := context.WithTimeout(u.ctx, dialTimeout)
	far, err := u.dial(ctx, "udp")
	cancel()
	if err != nil {
		u.log.Debug("datagrams for a published port are lost", "err", err)
		return
	}
	heard, answered := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(answered)
		u.answer(from, far, heard)
	}()
	defer func() { far.Close(); <-answered }()
	for idle := time.NewTimer(idleTime); ; idle.Reset(idleTime) {
		select {
		case data := <-in:
			if _, err := far.Write(data); err != nil {
				return
			}
		case <-heard:
		case <-answered:
			return
		case <-idle.C:
			return
		case <-u.ctx.Done():
			return
		}
	}
}

// answer sends a peer what its container says.
func (u *udpPeers) answer(to netip.AddrPort, far *link.ForwardStream, heard chan<- struct{}) {
	buf := make([]byte, maxDatagram)
	for {
		n, err := far.Read(buf)
		if err != nil {
			return
		}
		_, _ = u.socket.WriteToUDPAddrPort(buf[:n], to) // it may be lost
		select {
		case heard <- struct{}{}:
		default:
		}
	}
}
