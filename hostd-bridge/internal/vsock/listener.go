package vsock

import (
	"net"
	"sync"
	"syscall"
)

// listener is a port of the host on which the guest may connect.
type listener struct {
	dev   *Device
	port  uint32
	queue chan *stream
	held  int // connections that were accepted and are not closed by both sides; the device's mu guards it
	once  sync.Once
	done  chan struct{}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case s := <-l.queue:
		return s, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. Connections that were not accepted are reset.
func (l *listener) Close() error {
	l.dev.mu.Lock()
	defer l.dev.mu.Unlock()
	if l.dev.listeners[l.port] == l {
		delete(l.dev.listeners, l.port)
	}
	l.shutLocked()
	l.dev.flushLocked()
	return nil
}

// shutLocked ends Accept.
func (l *listener) shutLocked() {
	l.once.Do(func() { close(l.done) })
	for {
		select {
		case s := <-l.queue:
			s.abortLocked(syscall.ECONNRESET)
		default:
			return
		}
	}
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return Addr{HostCID, l.port} }
