package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/hashicorp/yamux"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// openWait is how long a host may take for its preface, and for the header of a stream.
const openWait = 30 * time.Second

// Handler is what a tether does for its hosts. Methods are called by several goroutines, and each must return soon
// after its context ended, which happens at the latest when the connection does. Errors should be *Refusal.
type Handler interface {
	tetherv1.TetherService

	// OpenOutput returns a reader of a session's output from the byte at offset on, the offset of its first byte, and
	// the number of bytes lost between the two. A negative offset means the oldest byte kept. The reader returns
	// io.EOF when the process's stream has ended; Close, called once, also ends a Read that waits. A reader that can
	// fall behind implements Lossy.
	OpenOutput(ctx context.Context, session string, stream RecordStream, offset int64) (r io.ReadCloser, first, dropped int64, err error)

	// OpenInput returns the standard input of a session's process. Close means end of file for the process, and is
	// not called when the host merely detaches. A Write that waits returns when ctx ends.
	OpenInput(ctx context.Context, session string) (io.WriteCloser, error)

	// Upload hands a byte stream to the Unpack of the same id, and returns when it was consumed. The reader returns
	// io.EOF only when the host has sent all of it.
	Upload(ctx context.Context, id string, r io.Reader) error

	// Download writes the byte stream of the Export of the same id, and returns when all of it is written. A Write that waits for the
	// host to read fails when ctx ends.
	Download(ctx context.Context, id string, w io.Writer) error

	// Connect connects in the container's network. network is "tcp" or "udp". A "tcp" connection has CloseWrite, as *net.TCPConn.
	Connect(ctx context.Context, network string, address netip.AddrPort) (net.Conn, error)
}

// Lossy is an output reader that skips what was overwritten before it was read. Dropped counts those bytes up to the
// last one that Read returned, including those before the reader's first byte.
type Lossy interface{ Dropped() int64 }

// Serve serves one connection, which it owns, and returns when it has ended: nil when the host or ctx ended it. No
// goroutine of it is left then.
func Serve(ctx context.Context, conn net.Conn, h Handler, log *slog.Logger) error {
	defer conn.Close()
	opening, cancel := context.WithTimeout(ctx, openWait)
	err := handshake(opening, conn, ourVersions())
	cancel()
	if err != nil {
		return err
	}
	session, err := yamux.Server(&joiner{Conn: conn}, muxConfig(log))
	if err != nil {
		return fmt.Errorf("cannot serve link session: %w", err)
	}
	s := &server{session: session, handler: h, log: log, slots: make(chan struct{}, MaxStreams)}
	return s.run(ctx)
}

type server struct {
	session *yamux.Session
	handler Handler
	log     *slog.Logger
	slots   chan struct{} // one per open stream

	mu      sync.Mutex
	closing bool // nothing joins work any more
	work    sync.WaitGroup
}

func (s *server) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { s.session.Close() })
	err := s.accept(ctx)
	stop()
	cancel()
	s.session.Close()
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.work.Wait()
	return err
}

func (s *server) accept(ctx context.Context) error {
	for first := true; ; first = false {
		stream, err := s.session.AcceptStream()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, yamux.ErrSessionShutdown):
			return nil
		case err != nil:
			return fmt.Errorf("link session ended: %w", err)
		case first:
			s.join(func() { s.control(ctx, stream) })
		default:
			s.join(func() { s.stream(ctx, stream) })
		}
	}
}

// join runs f as part of the session's work, unless the session is ending.
func (s *server) join(f func()) bool {
	leave, ok := s.enter()
	if ok {
		go func() {
			defer leave()
			defer s.catchPanic(nil)
			f()
		}()
	}
	return ok
}

// catchPanic, deferred, makes a panic of a handler the end of what it did and not of its program, which is PID 1 of a machine. The
// caller gets *err, unless err is nil.
func (s *server) catchPanic(err *error) {
	p := recover()
	if p == nil {
		return
	}
	s.log.Error("the tether is broken", "panic", p, "stack", string(debug.Stack()))
	if err != nil {
		*err = Refuse(errdefs.ErrInternal, "the tether is broken: %v", p)
	}
}

func (s *server) enter() (leave func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, false
	}
	s.work.Add(1)
	return s.work.Done, true
}

// stream serves any stream but the control stream.
func (s *server) stream(ctx context.Context, stream *yamux.Stream) {
	defer stream.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		s.refuse(stream, Refuse(errdefs.ErrResourceExhausted, "the session has %d open streams, the limit", MaxStreams))
		return
	}
	_ = stream.SetReadDeadline(time.Now().Add(openWait))
	h, err := readStreamHeader(stream)
	if err != nil {
		s.refuse(stream, Refuse(errdefs.ErrInvalidArgument, "%v", err))
		return
	}
	_ = stream.SetReadDeadline(time.Time{})
	s.dispatch(ctx, cancel, stream, h)
}

func (s *server) dispatch(ctx context.Context, cancel context.CancelFunc, stream *yamux.Stream, h streamHeader) {
	s.log.Debug("link stream", "kind", h.kind, "id", h.id, "offset", h.offset)
	switch h.kind {
	case kindStdout:
		s.output(ctx, cancel, stream, h, StreamStdout)
	case kindStderr:
		s.output(ctx, cancel, stream, h, StreamStderr)
	case kindInput:
		s.input(ctx, stream, h)
	case kindUpload:
		s.upload(ctx, stream, h)
	case kindTCP, kindUDP:
		s.forward(ctx, stream, h)
	case kindDownload:
		s.download(ctx, cancel, stream, h)
	}
}

// refuse tells the host why it gets no stream. What cannot be sent needs no telling: the connection has ended.
func (s *server) refuse(stream *yamux.Stream, err error) {
	st := status.Convert(err)
	_, _ = stream.Write(appendReply(nil, reply{code: st.Code(), reason: st.Message()}))
}

func accepted(stream *yamux.Stream, first, dropped int64) error {
	_, err := stream.Write(appendReply(nil, reply{code: codes.OK, first: first, dropped: dropped}))
	return err
}

// output copies from the session's ring until its end, or until the host closes the stream or the connection ends.
func (s *server) output(ctx context.Context, cancel context.CancelFunc, stream *yamux.Stream, h streamHeader, which RecordStream) {
	s.join(func() {
		drain(stream)
		cancel()
		stream.Close() // wakes a Write that waits for the host to read
	})
	r, first, dropped, err := s.handler.OpenOutput(ctx, h.id, which, h.offset)
	if err != nil {
		s.refuse(stream, err)
		return
	}
	closed := make(chan struct{})
	context.AfterFunc(ctx, func() { r.Close(); close(closed) })
	defer func() { cancel(); <-closed }()
	if accepted(stream, first, dropped) == nil {
		sendAll(ctx, stream, r, dropped)
	}
}

// sendAll sends r as frames, with what it skips beyond dropped and how it ended. The end of ctx is no end of r, which a
// host reads again by another session.
func sendAll(ctx context.Context, stream io.Writer, r io.Reader, dropped int64) {
	lossy, _ := r.(Lossy)
	buf := make([]byte, frameHeaderLength+chunk)
	for {
		n, err := r.Read(buf[frameHeaderLength:])
		if lossy != nil {
			if now := lossy.Dropped(); now > dropped {
				_, _ = stream.Write(appendSkipFrame(nil, now-dropped)) // the next Write fails too
				dropped = now
			}
		}
		if n > 0 {
			putFrameHeader(buf, frameData, n)
			if _, err := stream.Write(buf[:frameHeaderLength+n]); err != nil {
				return
			}
		}
		if err == io.EOF {
			finish(stream, nil)
			return
		}
		if err != nil {
			if ctx.Err() == nil {
				finish(stream, err)
			}
			return
		}
	}
}

// input copies to the process's standard input, and closes that only when the host said so.
func (s *server) input(ctx context.Context, stream *yamux.Stream, h streamHeader) {
	w, err := s.handler.OpenInput(ctx, h.id)
	if err != nil {
		s.refuse(stream, err)
		return
	}
	if accepted(stream, 0, 0) != nil {
		return
	}
	in := frameReader{r: stream}
	_, err = io.Copy(w, &in)
	if in.err != nil && in.err != io.EOF {
		return // detached
	}
	if err == nil {
		err = w.Close()
	}
	finish(stream, err)
}

// upload hands the stream to the handler.
func (s *server) upload(ctx context.Context, stream *yamux.Stream, h streamHeader) {
	if accepted(stream, 0, 0) == nil {
		finish(stream, s.handler.Upload(ctx, h.id, &frameReader{r: stream}))
	}
}

// download has the handler write to the stream, until the host closes it or the connection ends.
func (s *server) download(ctx context.Context, cancel context.CancelFunc, stream *yamux.Stream, h streamHeader) {
	s.join(func() {
		drain(stream)
		cancel()
		stream.Close() // wakes a Write that waits for the host to read
	})
	if accepted(stream, 0, 0) == nil {
		finish(stream, s.handler.Download(ctx, h.id, &frameWriter{w: stream}))
	}
}

// finish ends frames: with an end frame, or an error.
func finish(stream io.Writer, err error) {
	frames := frameWriter{w: stream}
	if err != nil {
		_ = frames.fail(err)
		return
	}
	_ = frames.end()
}

// control serves ttrpc on the session's first stream, and ends the session with it.
func (s *server) control(ctx context.Context, stream *yamux.Stream) {
	defer s.session.Close()
	rpc, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(s.count))
	if err != nil {
		s.log.Error("cannot serve control stream", "err", err)
		return
	}
	tetherv1.RegisterTetherService(rpc, s.handler)
	_ = rpc.Serve(quiet(ctx), newOneConn(stream)) // ends by the listener's end
}

// count makes each running call part of the session's work.
func (s *server) count(ctx context.Context, unmarshal ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (_ any, err error) {
	leave, ok := s.enter()
	if !ok {
		return nil, Refuse(errdefs.ErrUnavailable, "the session is ending")
	}
	defer leave()
	defer s.catchPanic(&err)
	return method(ctx, unmarshal)
}
