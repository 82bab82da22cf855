package link

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"
)

const (
	// datagramHeader is the length of a datagram, in front of it.
	datagramHeader = 2
	// maxDatagram is the longest payload of a datagram, in bytes: what its length can say. UDP itself ends a little below.
	maxDatagram = 1<<16 - 1
)

// forward connects in the container's network and passes bytes both ways, until both have ended or either side gives up.
func (s *server) forward(ctx context.Context, stream *yamux.Stream, h streamHeader) {
	network := "tcp"
	if h.kind == kindUDP {
		network = "udp"
	}
	address, err := netip.ParseAddrPort(h.id)
	if err != nil {
		s.refuse(stream, err)
		return
	}
	conn, err := s.handler.Connect(ctx, network, address)
	if err != nil {
		s.refuse(stream, err)
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if accepted(stream, 0, 0) != nil {
		return
	}
	received := make(chan struct{})
	if !s.join(func() {
		defer close(received)
		receive(conn, stream, h.kind)
		conn.Close()
		stream.Close() // wakes a Write that waits for the host to read
	}) {
		return
	}
	if send(stream, conn, h.kind) != nil {
		_ = stream.SetReadDeadline(time.Unix(1, 0)) // nothing is left to receive for
	}
	<-received
}

// receive passes on what the host sends. It returns when the host has closed the stream, which is after its end frame, or when it is lost.
func receive(conn net.Conn, stream io.Reader, kind streamKind) {
	in := frameReader{r: stream}
	if kind == kindUDP {
		receiveDatagrams(conn, &in)
		return
	}
	if _, err := io.Copy(onlyWriter{conn}, &in); err != nil || in.err != io.EOF {
		return
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // the other way tells of a connection that has ended
	}
	_, _ = io.Copy(io.Discard, stream)
}

// onlyWriter keeps io.Copy from what else a connection can do: its ReadFrom copies too.
type onlyWriter struct{ io.Writer }

func receiveDatagrams(conn io.Writer, in io.Reader) {
	buf := make([]byte, maxDatagram)
	for {
		n, err := readDatagram(in, buf)
		if err != nil {
			return
		}
		_, _ = conn.Write(buf[:n]) // a datagram may be lost
	}
}

// readDatagram reads a datagram into buf, which has room for any. io.EOF is the end between two of them.
func readDatagram(in io.Reader, buf []byte) (int, error) {
	var head [datagramHeader]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if _, err := io.ReadFull(in, buf[:n]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, err
	}
	return n, nil
}

// send passes on what comes from the container's network, and how it ended.
func send(stream io.Writer, conn io.Reader, kind streamKind) error {
	frames := frameWriter{w: stream}
	prefix := 0
	if kind == kindUDP {
		prefix = datagramHeader
	}
	buf := make([]byte, prefix+maxDatagram)
	for {
		n, err := conn.Read(buf[prefix:])
		if n > 0 || err == nil && kind == kindUDP {
			if kind == kindUDP {
				binary.BigEndian.PutUint16(buf, uint16(n))
			}
			if _, err := frames.Write(buf[:prefix+n]); err != nil {
				return err
			}
		}
		switch {
		case err == nil, kind == kindUDP && errors.Is(err, syscall.ECONNREFUSED): // nobody listens now: who sends again may be heard
		case errors.Is(err, io.EOF):
			return frames.end()
		default:
			_ = frames.fail(err)
			return err
		}
	}
}

// ForwardStream is a connection in a container's network. Read and Write may be called at once by two goroutines.
type ForwardStream struct {
	stream *yamux.Stream
	kind   streamKind
	closed atomic.Bool
	in     frameReader
	buf    []byte // udp only: of Read

	mu    sync.Mutex // of the writing side
	out   frameWriter
	ended bool
}

func newForwardStream(stream *yamux.Stream, kind streamKind) *ForwardStream {
	s := &ForwardStream{stream: stream, kind: kind, in: frameReader{r: stream}, out: frameWriter{w: stream}}
	if kind == kindUDP {
		s.buf = make([]byte, maxDatagram)
	}
	return s
}

// Read reads bytes of a tcp connection, or one datagram of udp, whose end is lost when p is too short. It returns io.EOF when the other
// side has shut down its sending, a *Refusal when the connection broke, an error that wraps ErrLost when the link did, and
// net.ErrClosed after Close. After any error but io.EOF writing fails too.
func (s *ForwardStream) Read(p []byte) (n int, err error) {
	if s.kind == kindUDP {
		if n, err = readDatagram(&s.in, s.buf); err == nil {
			return copy(p, s.buf[:n]), nil
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = lost(err)
		}
	} else {
		n, err = s.in.Read(p)
	}
	switch {
	case err == nil, err == io.EOF:
	case s.closed.Load():
		err = net.ErrClosed
	default:
		abort(s.stream) // a Write that waits ends by it
	}
	return n, err
}

// Write sends bytes, or one datagram of at most 65,535 bytes. Its error is net.ErrClosed after Close or CloseWrite, else it wraps ErrLost:
// Read tells why.
func (s *ForwardStream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.closed.Load() {
		return 0, net.ErrClosed
	}
	data := p
	if s.kind == kindUDP {
		if len(p) > maxDatagram {
			return 0, syscall.EMSGSIZE
		}
		data = append(binary.BigEndian.AppendUint16(make([]byte, 0, datagramHeader+len(p)), uint16(len(p))), p...)
	}
	n, err := s.out.Write(data)
	switch {
	case err == nil:
		return len(p), nil
	case s.closed.Load():
		err = net.ErrClosed
	default:
		err = lost(err)
	}
	return max(0, n-(len(data)-len(p))), err
}

// CloseWrite shuts down sending: of a tcp connection the other side reads its end. Reading goes on.
func (s *ForwardStream) CloseWrite() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil
	}
	s.ended = true
	if err := s.out.end(); err != nil {
		return lost(err)
	}
	return nil
}

// Close ends the connection, also a Read and a Write that wait.
func (s *ForwardStream) Close() error {
	if !s.closed.Swap(true) {
		abort(s.stream)
	}
	return nil
}
