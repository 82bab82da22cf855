package link

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"github.com/containerd/ttrpc"
	"github.com/hashicorp/yamux"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Client is the host's end of a link session. Its methods may be called by several goroutines.
type Client struct {
	session *yamux.Session
	control *ttrpc.Client
	tether  tetherv1.TetherService
}

// NewClient opens a session on conn, which it owns from then on, and closes when it fails. The error is a
// *VersionError when the tether's versions do not meet ours. The context bounds the opening only.
func NewClient(ctx context.Context, conn net.Conn) (*Client, error) {
	if err := handshake(ctx, conn, ourVersions()); err != nil {
		conn.Close()
		return nil, err
	}
	session, err := yamux.Client(&joiner{Conn: conn}, muxConfig(slog.New(slog.DiscardHandler)))
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot open link session: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { session.Close() })
	stream, err := openControl(session)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		session.Close()
		return nil, fmt.Errorf("cannot open control stream of link session: %w", err)
	}
	c := &Client{session: session, control: ttrpc.NewClient(stream, ttrpc.WithUnaryClientInterceptor(call))}
	c.tether = tetherv1.NewTetherClient(c.control)
	return c, nil
}

// openControl opens the first stream and refuses all streams of the tether's own, so that it cannot fill our memory.
func openControl(session *yamux.Session) (*yamux.Stream, error) {
	if err := session.GoAway(); err != nil {
		return nil, err
	}
	return session.OpenStream()
}

// call makes an RPC end with its context even while the connection stalls, a lost connection an ErrLost, and a status a Refusal. ttrpc
// itself waits on for the answer, since it complains on standard error about answers that nobody waits for.
func call(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, _ *ttrpc.UnaryClientInfo, invoke ttrpc.Invoker) error {
	done := make(chan error, 1)
	go func() { done <- invoke(context.WithoutCancel(ctx), req, resp) }()
	select {
	case err := <-done:
		answer := status.FromProto(resp.GetStatus())
		if err != nil {
			var isStatus bool
			if answer, isStatus = status.FromError(err); !isStatus {
				return lost(err)
			}
		}
		if answer.Code() != codes.OK {
			return refusalOf(answer.Code(), answer.Message())
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Tether is the control plane. Errors are *Refusal, or wrap ErrLost. A call whose context ends returns at
// once; the tether goes on with it.
func (c *Client) Tether() tetherv1.TetherService { return c.tether }

// Done is closed when the session has ended, by Close or by the loss of its connection.
func (c *Client) Done() <-chan struct{} { return c.session.CloseChan() }

// Close ends the session and its connection. All streams and calls end with ErrLost; input streams are detached.
func (c *Client) Close() error {
	err := c.session.Close()
	_ = c.control.Close() // its stream is gone already
	return err
}

// OpenOutput reads a session's output from the byte at offset on, or with a negative offset from the oldest byte that
// the tether keeps. stream is StreamStdout or StreamStderr. The context bounds the opening only.
func (c *Client) OpenOutput(ctx context.Context, session string, stream RecordStream, offset int64) (*OutputStream, error) {
	kind := kindStdout
	if stream == StreamStderr {
		kind = kindStderr
	}
	s, rep, err := c.open(ctx, streamHeader{kind: kind, id: session, offset: offset})
	if err != nil {
		return nil, fmt.Errorf("cannot open %s of session %q: %w", stream, session, err)
	}
	return &OutputStream{stream: s, frames: frameReader{r: s}, offset: rep.first, dropped: rep.dropped}, nil
}

// OpenInput writes to the standard input of a session's process. The context bounds the opening only.
func (c *Client) OpenInput(ctx context.Context, session string) (*InputStream, error) {
	s, _, err := c.open(ctx, streamHeader{kind: kindInput, id: session})
	if err != nil {
		return nil, fmt.Errorf("cannot open stdin of session %q: %w", session, err)
	}
	return newInputStream(s), nil
}

// Upload sends the bytes for the Unpack call that names the same id; CloseWrite says that they are complete.
// The context bounds the opening only.
func (c *Client) Upload(ctx context.Context, id string) (*InputStream, error) {
	s, _, err := c.open(ctx, streamHeader{kind: kindUpload, id: id})
	if err != nil {
		return nil, fmt.Errorf("cannot open upload %q: %w", id, err)
	}
	return newInputStream(s), nil
}

// Download reads the bytes of the Export call that names the same id. Its reader's error is a *Refusal when the tether gave up. The context
// bounds the opening only.
func (c *Client) Download(ctx context.Context, id string) (*OutputStream, error) {
	s, _, err := c.open(ctx, streamHeader{kind: kindDownload, id: id})
	if err != nil {
		return nil, fmt.Errorf("cannot open download %q: %w", id, err)
	}
	return &OutputStream{stream: s, frames: frameReader{r: s}}, nil
}

// Forward connects to an address in the container's network, also its loopback. network is "tcp" or "udp", address an IP address with
// a port, such as 127.0.0.1:80 or [fd00::2]:53. The context bounds the opening only. A tether of the time before it refuses.
func (c *Client) Forward(ctx context.Context, network, address string) (*ForwardStream, error) {
	kind := kindTCP
	switch network {
	case "tcp":
	case "udp":
		kind = kindUDP
	default:
		return nil, fmt.Errorf("cannot forward to network %.20q: want tcp or udp", network)
	}
	s, _, err := c.open(ctx, streamHeader{kind: kind, id: address})
	if err != nil {
		return nil, fmt.Errorf("cannot connect to %s %s in the container: %w", network, address, err)
	}
	return newForwardStream(s, kind), nil
}

type opened struct {
	stream *yamux.Stream
	reply  reply
	err    error
}

// open asks for a stream and waits for the tether's consent, or until ctx ends.
func (c *Client) open(ctx context.Context, h streamHeader) (*yamux.Stream, reply, error) {
	if err := h.check(); err != nil {
		return nil, reply{}, err
	}
	done := make(chan opened, 1)
	go func() { done <- c.ask(ctx, h) }()
	select {
	case o := <-done:
		return o.stream, o.reply, o.err
	case <-ctx.Done():
		go func() {
			if o := <-done; o.err == nil {
				abort(o.stream)
			}
		}()
		return nil, reply{}, context.Cause(ctx)
	}
}

// ask may outlast ctx while the connection stalls, though never the session.
func (c *Client) ask(ctx context.Context, h streamHeader) opened {
	stream, err := c.session.OpenStream()
	if err != nil {
		return opened{err: lost(err)}
	}
	stop := context.AfterFunc(ctx, func() { abort(stream) })
	defer stop()
	rep, err := exchange(stream, h)
	if err != nil {
		abort(stream)
	}
	return opened{stream, rep, err}
}

func exchange(stream *yamux.Stream, h streamHeader) (reply, error) {
	if _, err := stream.Write(appendStreamHeader(nil, h)); err != nil {
		return reply{}, lost(err)
	}
	rep, err := readReply(stream)
	if err != nil {
		return reply{}, lost(err)
	}
	return rep, rep.err()
}
