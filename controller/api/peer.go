package api

import (
	"context"
	"net"
	"os"

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

// mayReadHost reports whether the client is root or the daemon's own user, so that it could read every file that the daemon can.
func mayReadHost(ctx context.Context) bool {
	uid, ok := ctx.Value(peerKey{}).(uint32)
	return ok && (uid == 0 || uid == uint32(os.Geteuid()))
}
