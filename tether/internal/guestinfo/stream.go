package guestinfo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/link"
)

// Reconnection: a fork or a restart of the host's end resets every connection, and the next dial succeeds.
const (
	firstPause = time.Millisecond
	longPause  = 200 * time.Millisecond
)

// Stream is the transport over a byte stream. It dials when it must, also after the connection was lost; a command whose
// connection is lost is sent again, which is right since info-get and info-set may be repeated.
type Stream struct {
	dial  func(ctx context.Context) (net.Conn, error)
	cid   func() (uint32, error)
	token *Token
	conn  net.Conn
}

// NewStream returns a transport that connects by dial, with what token says. cid is the machine's present vsock CID.
func NewStream(dial func(ctx context.Context) (net.Conn, error), cid func() (uint32, error), token *Token) *Stream {
	return &Stream{dial: dial, cid: cid, token: token}
}

var errMalformedToken = errors.New("cannot use the host's token: it is malformed")

// Token is what each connection of the tether's to its host begins with, so that the host tells it from those that the container's
// processes make. The host gives it to the machine's first connection. Its methods may be called by several goroutines.
type Token struct {
	mu   sync.Mutex
	text string // empty: not given yet
}

func (t *Token) set(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = text
}

// greet writes the token, if there is one, and text behind it, with a single Write. There may be no text.
func (t *Token) greet(w io.Writer, text ...string) error {
	t.mu.Lock()
	token := t.text
	t.mu.Unlock()
	var b bytes.Buffer
	if token != "" {
		text = append([]string{link.Command{Name: link.CommandToken, Value: token}.String()}, text...)
	}
	for _, message := range text {
		if err := link.WriteMessage(&b, message); err != nil {
			return err
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// Hello is the machine's first command: it reads a key, which may have no value, and takes the token. It is repeated until it is answered
// or ctx ends.
func (s *Stream) Hello(ctx context.Context, key string) (value string, err error) {
	reply, err := s.RoundTrip(ctx, link.Command{Name: link.CommandHello, Key: key}.String())
	if err != nil {
		return "", fmt.Errorf("cannot say hello to the host: %w", err)
	}
	text, err := link.ParseReply(reply)
	if err != nil {
		return "", err
	}
	token, value, found := strings.Cut(text, " ")
	if len(token) != link.TokenLength {
		return "", errMalformedToken
	}
	s.token.set(token)
	if !found {
		return "", link.ErrNoValue
	}
	return value, nil
}

// RoundTrip sends the command until it is answered, ctx ends, or the machine turns out to have no such host.
func (s *Stream) RoundTrip(ctx context.Context, command string) (string, error) {
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		reply, err := s.try(ctx, command)
		if err == nil || !retryable(err) {
			return reply, err
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// Once implements Transport. A connection that ends after the machine's CID has changed has brought the machine through a fork, which
// is how a freeze succeeds.
func (s *Stream) Once(ctx context.Context, command string) (string, error) {
	before, err := s.cid()
	if err != nil {
		return "", err
	}
	return s.once(ctx, command, before)
}

// once is Once in a machine that had the CID before.
func (s *Stream) once(ctx context.Context, command string, before uint32) (string, error) {
	reply, err := s.try(ctx, command)
	if err == nil || ctx.Err() != nil {
		return reply, err
	}
	if now, cidErr := s.cid(); cidErr == nil && now != before {
		return link.ReplyOK(""), nil
	}
	return "", err
}

// AwaitFork returns nil when the machine has become a fork of itself: its CID is not cid any more. Nothing else can be asked by the
// stream meanwhile.
func (s *Stream) AwaitFork(ctx context.Context, cid uint32) error {
	for {
		if now, err := s.cid(); err != nil || now != cid {
			return err // forked while nobody waited
		}
		reply, err := s.once(ctx, link.Command{Name: link.CommandWait, Key: link.KeyNever}.String(), cid)
		if err == nil {
			_, err = link.ParseReply(reply)
			return err
		}
		if ctx.Err() != nil || !retryable(err) {
			return err
		}
		select { // the host's end was lost, not the machine forked
		case <-ctx.Done():
		case <-time.After(longPause):
		}
	}
}

func (s *Stream) try(ctx context.Context, command string) (reply string, err error) {
	send := func(w io.Writer) error { return link.WriteMessage(w, command) }
	if s.conn == nil {
		if s.conn, err = s.dial(ctx); err != nil {
			s.conn = nil
			return "", err
		}
		send = func(w io.Writer) error { return s.token.greet(w, command) }
	}
	conn := s.conn
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() || err != nil { // a late reply would be taken for the next command's
			_ = conn.Close()
			s.conn = nil
		}
	}()
	if err := send(conn); err != nil {
		return "", err
	}
	return link.ReadMessage(conn)
}

// retryable tells a lost connection from a machine without the service.
func retryable(err error) bool {
	return !errors.Is(err, syscall.ENODEV) && !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.EAFNOSUPPORT) &&
		!errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}

// Close ends the connection.
func (s *Stream) Close() error {
	if s.conn == nil {
		return nil
	}
	return s.conn.Close()
}

// Dial connects to a service of the host by vsock. The CID is asked for each time, since a fork changes it.
func Dial(s link.Service) func(ctx context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) {
		cid, err := vsock.ContextID()
		if err != nil {
			return nil, fmt.Errorf("cannot learn the machine's vsock CID: %w", err)
		}
		conn, err := vsock.Dial(vsock.Host, link.HostPort(cid, s), nil)
		if err != nil {
			return nil, fmt.Errorf("cannot connect to the host: %w", err)
		}
		return conn, nil
	}
}

// DialLog connects to the host's log.
func (t *Token) DialLog(ctx context.Context) (net.Conn, error) {
	conn, err := Dial(link.ServiceLog)(ctx)
	if err != nil {
		return nil, err
	}
	if err := t.greet(conn); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// Stream returns a transport over connections of its own.
func (t *Token) Stream() *Stream { return NewStream(Dial(link.ServiceGuestinfo), CID, t) }

// CID is the machine's present vsock CID.
func CID() (uint32, error) { return vsock.ContextID() }

// hasVsock reports whether the machine has a vsock device.
func hasVsock() bool {
	cid, err := vsock.ContextID()
	return err == nil && cid != unix.VMADDR_CID_ANY
}

// Names of the transports.
const (
	Vsock      = "vsock"
	VMwarePort = "backdoor"
)

// Detect returns the transport of this machine and its name: VMware's backdoor where the CPU says VMware, else vsock, with token.
func Detect(token *Token) (Transport, string, error) {
	switch {
	case onVMware():
		return NewBackdoor(port), VMwarePort, nil
	case hasVsock():
		return token.Stream(), Vsock, nil
	default:
		return nil, "", errors.New("cannot reach a host: the machine has neither a vsock device nor VMware's backdoor")
	}
}
