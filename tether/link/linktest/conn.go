package linktest

import (
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// SocketPair returns both ends of a stream socket with kernel buffers, as vsock has them. They are closed with the test.
func SocketPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("cannot make a socket pair: %v", err)
	}
	return fileConn(t, fds[0]), fileConn(t, fds[1])
}

func fileConn(t testing.TB, fd int) net.Conn {
	f := os.NewFile(uintptr(fd), "socketpair")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		t.Fatalf("cannot use a socket pair: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// Fault spoils a connection, seen from the fake that serves it.
type Fault func(net.Conn) net.Conn

// CutAfter ends the connection when the fake has sent n bytes, in the midst of a Write if need be.
func CutAfter(n int) Fault {
	return func(c net.Conn) net.Conn { return &cutConn{Conn: c, left: n} }
}

type cutConn struct {
	net.Conn
	mu   sync.Mutex
	left int
}

func (c *cutConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(p) < c.left {
		c.left -= len(p)
		return c.Conn.Write(p)
	}
	n, err := c.Conn.Write(p[:c.left])
	c.left = 0
	c.Conn.Close()
	if err == nil {
		err = net.ErrClosed
	}
	return n, err
}

// Delay holds each Write of the fake back for d.
func Delay(d time.Duration) Fault {
	return func(c net.Conn) net.Conn { return &delayConn{Conn: c, d: d, closed: make(chan struct{})} }
}

type delayConn struct {
	net.Conn
	d      time.Duration
	once   sync.Once
	closed chan struct{}
}

func (c *delayConn) Write(p []byte) (int, error) {
	select {
	case <-time.After(c.d):
		return c.Conn.Write(p)
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

func (c *delayConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// Gate stops all that a fake sends while it is shut, as a paused guest does. The zero value is not usable.
type Gate struct {
	mu   sync.Mutex
	open chan struct{} // closed while the gate is open
}

// NewGate returns an open gate.
func NewGate() *Gate {
	g := &Gate{open: make(chan struct{})}
	close(g.open)
	return g
}

// Shut stops the connections behind the gate.
func (g *Gate) Shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
		g.open = make(chan struct{})
	default:
	}
}

// Open lets them go on.
func (g *Gate) Open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
	default:
		close(g.open)
	}
}

func (g *Gate) wait() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

// Stall puts a connection behind the gate.
func (g *Gate) Stall(c net.Conn) net.Conn {
	return &gateConn{Conn: c, gate: g, closed: make(chan struct{})}
}

type gateConn struct {
	net.Conn
	gate   *Gate
	once   sync.Once
	closed chan struct{}
}

func (c *gateConn) Write(p []byte) (int, error) {
	select {
	case <-c.gate.wait():
		return c.Conn.Write(p)
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

func (c *gateConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
