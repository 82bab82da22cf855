package link

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
)

// OutputStream reads a process's output.
type OutputStream struct {
	stream  *yamux.Stream
	frames  frameReader
	offset  int64
	dropped int64
	closed  atomic.Bool
}

// Read returns io.EOF when the process's stream has ended and all of it was read, an error that wraps ErrLost when
// the connection ended first, and net.ErrClosed after Close.
func (s *OutputStream) Read(p []byte) (int, error) {
	n, err := s.frames.Read(p)
	if err != nil && err != io.EOF && s.closed.Load() {
		err = net.ErrClosed
	}
	return n, err
}

// Offset is the offset of the first byte that Read returned, counted from the process's start.
func (s *OutputStream) Offset() int64 { return s.offset }

// Next is the offset of the byte that the next Read returns: where to open the stream again when it is lost. It is
// not to be called during Read.
func (s *OutputStream) Next() int64 { return s.offset + s.frames.read + s.frames.skipped }

// Dropped is the number of bytes, from the offset that was asked for up to Next, that the tether no longer had: those
// before Offset, and those that it overwrote since because the reader was too slow. It is not to be called during Read.
func (s *OutputStream) Dropped() int64 { return s.dropped + s.frames.skipped }

// Close ends the reading, also a Read that waits. The process and other readers go on.
func (s *OutputStream) Close() error {
	if !s.closed.Swap(true) {
		abort(s.stream)
	}
	return nil
}

// InputStream writes to a process's standard input, or an upload.
type InputStream struct {
	stream *yamux.Stream
	closed atomic.Bool
	done   chan struct{} // closed when the tether takes no more
	end    error         // why, once done

	mu     sync.Mutex // of the writing side
	frames frameWriter
	ended  bool
}

func newInputStream(stream *yamux.Stream) *InputStream {
	s := &InputStream{stream: stream, done: make(chan struct{}), frames: frameWriter{w: stream}}
	go s.watch()
	return s
}

// watch waits until the tether takes no more, or for Close, and then closes the stream: a Write that waits for the
// tether to read ends by it.
func (s *InputStream) watch() {
	_, err := io.Copy(io.Discard, &frameReader{r: s.stream})
	if err == nil {
		err = io.ErrClosedPipe
	}
	s.end = err
	close(s.done)
	_ = s.stream.Close()
}

// Write returns when the bytes are sent or in the tether's window. Its error is net.ErrClosed after Close or
// CloseWrite, io.ErrClosedPipe when the process takes no more input, a *Refusal when the tether says why it takes no
// more, else it wraps ErrLost.
func (s *InputStream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.closed.Load() {
		return 0, net.ErrClosed
	}
	n, err := s.frames.Write(p)
	return n, s.why(err)
}

// Done is closed when the tether takes no more, or Close was called.
func (s *InputStream) Done() <-chan struct{} { return s.done }

// Lost reports, once Done is closed, whether the connection ended before the tether said that it has taken all. What was written may be
// lost then.
func (s *InputStream) Lost() bool { return !s.closed.Load() && errors.Is(s.end, ErrLost) }

// CloseWrite says that no more input comes: the process reads end of file once it has read what was written, and an
// upload is complete. Close the stream nevertheless.
func (s *InputStream) CloseWrite() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil
	}
	s.ended = true
	return s.why(s.frames.end())
}

// Close detaches: without CloseWrite before it, the process's standard input stays open, and an upload fails.
func (s *InputStream) Close() error {
	if !s.closed.Swap(true) {
		_ = s.stream.SetReadDeadline(time.Unix(1, 0)) // wakes watch, which closes the stream
	}
	return nil
}

func (s *InputStream) why(err error) error {
	switch {
	case err == nil:
		return nil
	case s.closed.Load():
		return net.ErrClosed
	case errors.Is(err, yamux.ErrStreamClosed): // by watch, or with the session, which ends watch too
		<-s.done
		return s.end
	default:
		return lost(err)
	}
}
