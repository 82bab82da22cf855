package core

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/waiter"
)

// guestConn is the netstack's end of a session with a guest: of a TCP connection, or of datagrams.
type guestConn struct {
	ep             tcpip.Endpoint
	queue          *waiter.Queue
	in, out        waiter.Entry
	readable, room chan struct{}
}

// errOf is an error of the netstack. Those that the callers tell apart are Go's.
func errOf(err tcpip.Error) error {
	switch err.(type) {
	case nil:
		return nil
	case *tcpip.ErrClosedForReceive:
		return io.EOF
	case *tcpip.ErrConnectionRefused:
		return syscall.ECONNREFUSED
	case *tcpip.ErrConnectionReset, *tcpip.ErrConnectionAborted, *tcpip.ErrAborted:
		return syscall.ECONNRESET
	case *tcpip.ErrTimeout:
		return syscall.ETIMEDOUT
	case *tcpip.ErrHostUnreachable, *tcpip.ErrNetworkUnreachable:
		return syscall.EHOSTUNREACH
	}
	return errors.New(err.String())
}

const hangUp = waiter.EventHUp | waiter.EventErr

func newGuestConn(ep tcpip.Endpoint, queue *waiter.Queue) *guestConn {
	c := &guestConn{ep: ep, queue: queue}
	ep.SocketOptions().SetDelayOption(false) // who sent it has waited already, if it wanted to
	c.in, c.readable = waiter.NewChannelEntry(waiter.ReadableEvents | hangUp)
	c.out, c.room = waiter.NewChannelEntry(waiter.WritableEvents | hangUp)
	queue.EventRegister(&c.in)
	queue.EventRegister(&c.out)
	return c
}

// dialGuest connects from the gateway to an address of an endpoint.
func dialGuest(ctx context.Context, s *stack.Stack, protocol tcpip.TransportProtocolNumber, to netip.AddrPort) (*guestConn, error) {
	queue := new(waiter.Queue)
	ep, failed := s.NewEndpoint(protocol, family(to.Addr()), queue)
	if failed != nil {
		return nil, errOf(failed)
	}
	c := newGuestConn(ep, queue)
	failed = ep.Connect(tcpip.FullAddress{NIC: theNIC, Addr: toTCPIP(to.Addr()), Port: to.Port()})
	if _, under := failed.(*tcpip.ErrConnectStarted); under {
		select {
		case <-c.room:
			failed = ep.LastError()
		case <-ctx.Done():
			c.abort()
			return nil, context.Cause(ctx)
		}
	}
	if failed != nil {
		c.close()
		return nil, fmt.Errorf("cannot connect to %v: %w", to, errOf(failed))
	}
	return c, nil
}

// read waits for bytes, and then calls use with a buffer of them.
func (c *guestConn) read(use func([]byte) error) error {
	for {
		buf := takeBuffer()
		w := tcpip.SliceWriter(*buf)
		result, failed := c.ep.Read(&w, tcpip.ReadOptions{})
		if _, empty := failed.(*tcpip.ErrWouldBlock); empty {
			giveBuffer(buf)
			<-c.readable
			continue
		}
		err := errOf(failed)
		if err == nil {
			err = use((*buf)[:result.Count])
		}
		giveBuffer(buf)
		return err
	}
}

// write sends all of b, or returns an error.
func (c *guestConn) write(b []byte) error {
	r := bytes.NewReader(b)
	for r.Len() > 0 {
		_, failed := c.ep.Write(r, tcpip.WriteOptions{})
		if _, full := failed.(*tcpip.ErrWouldBlock); full {
			<-c.room
			continue
		}
		if failed != nil {
			return errOf(failed)
		}
	}
	return nil
}

// send sends a datagram; one that finds no room is lost.
func (c *guestConn) send(b []byte) {
	_, _ = c.ep.Write(bytes.NewReader(b), tcpip.WriteOptions{}) // datagrams may be lost
}

// closeWrite tells the guest that nothing follows.
func (c *guestConn) closeWrite() error { return errOf(c.ep.Shutdown(tcpip.ShutdownWrite)) }

func (c *guestConn) close() {
	c.queue.EventUnregister(&c.in)
	c.queue.EventUnregister(&c.out)
	c.ep.Close()
}

// abort resets the connection. Who waits for it is woken, and closes it.
func (c *guestConn) abort() { c.ep.Abort() }
