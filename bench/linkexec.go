package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/containervm/containervm/bench/internal/measure"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// linkPeer runs processes in a guest by link, the protocol of its tether, without the Docker API.
type linkPeer struct {
	relay *relay
	last  int
	kept  *link.Client
}

func (p *linkPeer) open(ctx context.Context) (*link.Client, error) {
	conn, err := p.relay.open(ctx, link.PortLink)
	if err != nil {
		return nil, err
	}
	return link.NewClient(ctx, streamConn{conn})
}

// fresh runs a process by a session of its own.
func (p *linkPeer) fresh(ctx context.Context) (value float64, err error) {
	begin := time.Now()
	c, err := p.open(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	err = p.run(ctx, c)
	return measure.Millis(time.Since(begin)), err
}

// again runs a process by the session that is kept.
func (p *linkPeer) again(ctx context.Context) (float64, error) {
	begin := time.Now()
	err := p.run(ctx, p.kept)
	return measure.Millis(time.Since(begin)), err
}

func (p *linkPeer) run(ctx context.Context, c *link.Client) error {
	p.last++
	session := fmt.Sprintf("bench-%d", p.last)
	res, err := c.Tether().Exec(ctx, &tetherv1.ExecRequest{Session: session, Process: &tetherv1.Process{Args: trueByShell(), Cwd: "/"}})
	if err != nil {
		return err
	}
	if res.Failure != nil {
		return fmt.Errorf("the process did not start: %s", res.Failure.Message)
	}
	done, err := c.Tether().Wait(ctx, &tetherv1.WaitRequest{Session: session})
	if err != nil {
		return err
	}
	if code := done.GetExit().GetCode(); code != 0 {
		return fmt.Errorf("the process ended with %d", code)
	}
	return nil
}

// trueByShell is what an SSH server makes of "true".
func trueByShell() []string { return []string{"/bin/sh", "-c", "true"} }

// streamConn is a stream as a net.Conn without deadlines, which link can do without.
type streamConn struct{ io.ReadWriteCloser }

func (streamConn) LocalAddr() net.Addr              { return &net.UnixAddr{} }
func (streamConn) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (streamConn) SetDeadline(time.Time) error      { return nil }
func (streamConn) SetReadDeadline(time.Time) error  { return nil }
func (streamConn) SetWriteDeadline(time.Time) error { return nil }
