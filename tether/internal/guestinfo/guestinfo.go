// Package guestinfo is the tether's side of the asynchronous plane: VMware's RPCI text commands, sent to the host over
// vsock or through VMware's backdoor, whichever the machine has.
package guestinfo

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/containervm/containervm/tether/link"
)

// Transport carries one command to the host and its reply back. Calls do not overlap.
type Transport interface {
	RoundTrip(ctx context.Context, command string) (reply string, err error)
	Close() error
}

// Client asks the host and tells it. Its methods may be called by several goroutines.
type Client struct {
	mu        sync.Mutex
	transport Transport
}

// New returns a client that owns t.
func New(t Transport) *Client { return &Client{transport: t} }

func (c *Client) do(ctx context.Context, cmd link.Command) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	reply, err := c.transport.RoundTrip(ctx, cmd.String())
	if err != nil {
		return "", fmt.Errorf("cannot send %s %s to the host: %w", cmd.Name, cmd.Key, err)
	}
	return link.ParseReply(reply)
}

// Get reads a key. The error is link.ErrNoValue when it is not set.
func (c *Client) Get(ctx context.Context, key string) (string, error) {
	return c.do(ctx, link.Command{Name: link.CommandInfoGet, Key: key})
}

// Set writes a key.
func (c *Client) Set(ctx context.Context, key, value string) error {
	_, err := c.do(ctx, link.Command{Name: link.CommandInfoSet, Key: key, Value: value})
	return err
}

// Time is the host's clock.
func (c *Client) Time(ctx context.Context) (time.Time, error) {
	text, err := c.do(ctx, link.Command{Name: link.CommandTime})
	if err != nil {
		return time.Time{}, err
	}
	nanos, err := strconv.ParseInt(text, 10, 64)
	if err != nil || nanos <= 0 {
		return time.Time{}, errors.New("cannot read the host's clock: it answered " + strconv.Quote(text))
	}
	return time.Unix(0, nanos), nil
}

// Close ends the transport.
func (c *Client) Close() error { return c.transport.Close() }
