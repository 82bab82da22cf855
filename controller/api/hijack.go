package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moby/moby/api/types"
	"golang.org/x/sys/unix"
)

// hijacked is a connection that has left HTTP and carries a process's streams. Several goroutines may read it.
type hijacked struct {
	net.Conn
	mu    sync.Mutex
	early *bufio.Reader // holds what the client sent with its request
	first sync.Once     // output
}

func (h *hijacked) Read(p []byte) (int, error) {
	if n := h.readEarly(p); n > 0 {
		return n, nil
	}
	return h.Conn.Read(p)
}

func (h *hijacked) readEarly(p []byte) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n, _ := h.early.Read(p[:min(len(p), h.early.Buffered())]) // what is buffered is read without an error
	return n
}

// Bounds of how long a client may go on after it was sent all, and of what it may send then: one that copies a file to a process that has ended.
const (
	finishTime  = 10 * time.Second
	finishBytes = 1 << 30
)

// finish closes a connection whose output is complete. A client that still sends would read of a reset in place of the output's end, so
// the output is ended first, and what the client sends is dropped until it closes its side.
func (h *hijacked) finish() {
	defer h.Close()
	if h.CloseWrite() != nil || h.SetReadDeadline(time.Now().Add(finishTime)) != nil {
		return // the client is gone
	}
	_, _ = io.CopyN(io.Discard, h, finishBytes)
}

// hijack answers a request and takes its connection. A client that asked for an upgrade (Upgrade: tcp) gets 101, one of
// old gets 200 and the raw bytes behind it. What the client reads must begin only then: one that buffers the answer's head would lose
// what comes with it. The caller finishes the connection.
func hijack(w http.ResponseWriter, r *http.Request, tty bool) (*hijacked, error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("cannot take over the connection: %w", err)
	}
	if a, ok := w.(*answer); ok {
		a.begun = true
	}
	status := "200 OK"
	upgrade := ""
	if strings.EqualFold(r.Header.Get("Upgrade"), "tcp") {
		status, upgrade = "101 UPGRADED", "Connection: Upgrade\r\nUpgrade: tcp\r\n"
	}
	head := fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: %s\r\n%s\r\n", status, streamType(r.Context(), tty), upgrade)
	if _, err := io.WriteString(conn, head); err != nil {
		conn.Close()
		return nil, err
	}
	return &hijacked{Conn: conn, early: buffered.Reader}, nil
}

// streamType is the media type of a process's streams. Clients older than API 1.42 know the raw one alone.
func streamType(ctx context.Context, tty bool) string {
	if tty || !atLeast(ctx, "1.42") {
		return types.MediaTypeRawStream
	}
	return types.MediaTypeMultiplexedStream
}

// CloseWrite tells the client that no more output comes.
func (h *hijacked) CloseWrite() error {
	if half, ok := h.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// stdin reads the client's side. At its end it watches for the client to go away altogether, which a half-closed
// connection does not show, and then calls gone.
func (h *hijacked) stdin(gone func()) io.Reader { return &clientInput{h: h, gone: gone} }

type clientInput struct {
	h    *hijacked
	gone func()
	over bool
}

func (c *clientInput) Read(p []byte) (int, error) {
	n, err := c.h.Read(p)
	if err != nil && !c.over {
		c.over = true
		go c.h.watch(err, c.gone)
	}
	return n, err
}

// watch calls gone once nobody reads at the other end any longer. It returns when the connection is closed.
func (h *hijacked) watch(err error, gone func()) {
	if !errors.Is(err, io.EOF) {
		gone() // reset, or closed by us
		return
	}
	sc, ok := h.Conn.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	// The runtime wakes the function at each change of the connection's state; nothing is read.
	if raw.Read(func(fd uintptr) bool { return hungUp(int(fd)) }) == nil {
		gone()
	}
}

// hungUp reports whether both directions of a connection are shut: the peer has closed it (poll(2), POLLHUP).
func hungUp(fd int) bool {
	state := []unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(state, 0)
	return err == nil && n > 0 && state[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
}

// drain keeps reading a client that is to send nothing, so that its end is noticed.
func drain(r io.Reader) { _, _ = io.Copy(io.Discard, r) }
