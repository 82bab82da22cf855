package api

import (
	"context"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

type peerKey struct{}

// WithPeer notes who has a connection, if it is one of the daemon's unix socket: http.Server.ConnContext.
func WithPeer(ctx context.Context, conn net.Conn) context.Context {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return ctx
	}
	var peer *unix.Ucred
	if raw.Control(func(fd uintptr) { peer, _ = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }) != nil || peer == nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, peer.Uid)
}

// Bounds on what clients of the socket cost before they have asked for anything, and between requests.
const (
	// maxClients is how many connections one user may have that were not handed over to a container's streams; root and the daemon's own user have
	// no bound. A client that follows something has one for each.
	maxClients = 1024
	// maxHeader bounds the header of a request in bytes: a registry's credentials and a page of filters are in it.
	maxHeader = 128 << 10
	// idleTime is how long a connection without a request stays.
	idleTime = 5 * time.Minute
)

// Guard bounds what clients cost server. One user's connections keep nobody else out.
func Guard(server *http.Server) {
	c := clients{users: map[net.Conn]uint32{}, most: maxClients}
	server.ConnContext, server.MaxHeaderBytes, server.IdleTimeout = WithPeer, maxHeader, idleTime
	server.ConnState = c.changed
}

// clients are the connections of users other than root and the daemon's own.
type clients struct {
	mu    sync.Mutex
	users map[net.Conn]uint32
	most  int
}

func (c *clients) changed(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		user, ok := WithPeer(context.Background(), conn).Value(peerKey{}).(uint32)
		if ok && user != 0 && user != uint32(os.Geteuid()) && !c.came(conn, user) {
			conn.Close() // its reads fail, and the server forgets it
		}
	case http.StateClosed, http.StateHijacked:
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.users, conn)
	}
}

// came takes a connection of a user, who has room for it.
func (c *clients) came(conn net.Conn, user uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, other := range c.users {
		if other == user {
			n++
		}
	}
	if n < c.most {
		c.users[conn] = user
	}
	return n < c.most
}

// mayReadHost reports whether the client is root or the daemon's own user, so that it could read every file that the daemon can.
func mayReadHost(ctx context.Context) bool {
	uid, ok := ctx.Value(peerKey{}).(uint32)
	return ok && (uid == 0 || uid == uint32(os.Geteuid()))
}
