package api

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// takeTime bounds how long output waits for a client to take the head of its answer.
const takeTime = time.Second

// Write sends output. The first waits until the client has taken the head of the answer: docker-py reads it by a buffered reader, from
// which it then parts, so output that lies behind the head in the socket by then is lost, however late it was sent.
func (h *hijacked) Write(p []byte) (int, error) {
	h.first.Do(h.awaitTaken)
	return h.Conn.Write(p)
}

// awaitTaken waits until the client has read all that it was sent, as far as that can be seen: of a Unix socket.
func (h *hijacked) awaitTaken() {
	conn, ok := h.Conn.(*net.UnixConn)
	if !ok {
		return
	}
	raw, err := conn.SyscallConn()
	if err != nil || conn.SetWriteDeadline(time.Now().Add(takeTime)) != nil {
		return // it is closed, which the write tells
	}
	// The kernel wakes a writer whenever the peer has read something. While it does so it still counts one byte of what was read.
	_ = raw.Write(func(fd uintptr) bool { // out of time, or closed: the write goes on
		unread, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
		return err != nil || unread <= 1
	})
	_ = conn.SetWriteDeadline(time.Time{})
}
