package vim

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Bounds on what those cost who have not logged in.
const (
	// maxStrangers and maxPeerStrangers are how many of their connections there may be, and of them of one peer: an address, or with IPv6
	// the network of 64 bits that a site gives away (RFC 4291, 2.5.4). A client needs one to log in.
	maxStrangers     = 512
	maxPeerStrangers = 64
	// strangerRequest bounds their requests in bytes: a login is one of 600.
	strangerRequest = 16 << 10
	// strangerWait bounds how long a request of theirs may take to come.
	strangerWait = 10 * time.Second
	// maxHeader bounds the header of any request in bytes.
	maxHeader = 16 << 10
)

// strangers are the connections on which no session was shown yet. A connection is one until its first request with a session, or its end.
// Where there is no room for another, the oldest goes: who logs in does so at once, so who only waits pushes nobody out.
type strangers struct {
	mu  sync.Mutex
	all []stranger // the oldest first
}

type stranger struct {
	conn net.Conn
	peer netip.Prefix
}

type connKey struct{}

// Guard bounds what those cost server who have not logged in.
func (s *Server) Guard(server *http.Server) {
	server.MaxHeaderBytes = maxHeader
	server.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) }
	server.ConnState = func(c net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			for _, old := range s.strangers.came(c) {
				old.Close() // its reads fail, and the server forgets it
			}
		case http.StateClosed, http.StateHijacked:
			s.strangers.gone(c)
		}
	}
}

// came takes a connection, and returns those that it has no more room for.
func (s *strangers) came(c net.Conn) (pushedOut []net.Conn) {
	peer := peerOf(c)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, stranger{c, peer})
	ofPeer := 0
	for _, x := range s.all {
		if x.peer == peer {
			ofPeer++
		}
	}
	if ofPeer > maxPeerStrangers {
		pushedOut = append(pushedOut, s.removeLocked(func(x stranger) bool { return x.peer == peer }))
	}
	if len(s.all) > maxStrangers {
		pushedOut = append(pushedOut, s.removeLocked(func(stranger) bool { return true }))
	}
	return pushedOut
}

// removeLocked removes the oldest of a kind, which there is. The caller holds mu.
func (s *strangers) removeLocked(kind func(stranger) bool) net.Conn {
	at := slices.IndexFunc(s.all, kind)
	c := s.all[at].conn
	s.all = slices.Delete(s.all, at, at+1)
	return c
}

// gone forgets a connection: it has ended, or shown a session.
func (s *strangers) gone(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = slices.DeleteFunc(s.all, func(x stranger) bool { return x.conn == c })
}

// known says that a request has shown a session.
func (s *strangers) known(r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(net.Conn); ok {
		s.gone(c)
	}
}

// peerOf is who is at the other end. Those without an address count as one.
func peerOf(c net.Conn) netip.Prefix {
	at, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return netip.Prefix{}
	}
	address, bits := at.Addr().Unmap(), 32
	if address.Is6() {
		bits = 64
	}
	peer, err := address.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return peer
}
