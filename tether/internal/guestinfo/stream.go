package guestinfo

import (
	"context"
	"errors"
	"fmt"
	"net"
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
	dial func(ctx context.Context) (net.Conn, error)
	cid  func() (uint32, error)
	conn net.Conn
}

// NewStream returns a transport that connects by dial. cid is the machine's present vsock CID.
func NewStream(dial func(ctx context.Context) (net.Conn, error), cid func() (uint32, error)) *Stream {
	return &Stream{dial: dial, cid: cid}
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
	if s.conn == nil {
		if s.conn, err = s.dial(ctx); err != nil {
			s.conn = nil
			return "", err
		}
	}
	conn := s.conn
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() || err != nil { // a late reply would be taken for the next command's
			_ = conn.Close()
			s.conn = nil
		}
	}()
	if err := link.WriteMessage(conn, command); err != nil {
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

// Detect returns the transport of this machine and its name: VMware's backdoor where the CPU says VMware, else vsock.
func Detect() (Transport, string, error) {
	switch {
	case onVMware():
		return NewBackdoor(port), VMwarePort, nil
	case hasVsock():
		return NewStream(Dial(link.ServiceGuestinfo), CID), Vsock, nil
	default:
		return nil, "", errors.New("cannot reach a host: the machine has neither a vsock device nor VMware's backdoor")
	}
}
