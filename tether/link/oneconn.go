package link

import (
	"context"
	"io"
	"net"
	"sync"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

// oneConn is a listener of a single connection that is there already. Its second Accept waits for the end of that
// connection, so that a server on it serves as long as the connection lasts.
type oneConn struct {
	net.Conn
	first chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newOneConn(conn net.Conn) *oneConn {
	l := &oneConn{Conn: conn, first: make(chan net.Conn, 1), done: make(chan struct{})}
	l.first <- l
	return l
}

// Accept implements net.Listener.
func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case conn := <-l.first:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Addr implements net.Listener.
func (l *oneConn) Addr() net.Addr { return l.LocalAddr() }

// Read returns io.EOF however the connection ends: that is the one end which ttrpc takes without a complaint.
func (l *oneConn) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if err != nil {
		err = io.EOF
	}
	return n, err
}

// Close closes the connection and ends the listening.
func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Conn.Close()
}

// quiet keeps ttrpc from writing to standard error: what it says there, the host learns as the end of its stream.
func quiet(ctx context.Context) context.Context {
	silent := logrus.New()
	silent.SetOutput(io.Discard)
	return log.WithLogger(ctx, logrus.NewEntry(silent))
}
