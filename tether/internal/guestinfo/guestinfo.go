// Package guestinfo is the tether's side of the asynchronous plane: VMware's RPCI text commands, sent to the host over
// vsock or through VMware's backdoor, whichever the machine has.
package guestinfo

import (
	"context"
	"encoding/base64"
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
	// Once is RoundTrip for a command that must not be sent twice.
	Once(ctx context.Context, command string) (reply string, err error)
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

// Hello is the first thing that is asked of the host, by vsock with the token that comes of it. It reads a key as Get does.
func (c *Client) Hello(ctx context.Context, key string) (string, error) {
	s, ok := c.transport.(*Stream)
	if !ok {
		return c.Get(ctx, key) // VMware's backdoor knows no connections
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return s.Hello(ctx, key)
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

// Await reads a key that the host sets sooner or later. Nothing else can be asked meanwhile, so it wants a client of its own.
func (c *Client) Await(ctx context.Context, key string) (string, error) {
	return c.do(ctx, link.Command{Name: link.CommandWait, Key: key})
}

// Seed is random bytes of the host's, other ones each time.
func (c *Client) Seed(ctx context.Context) ([]byte, error) {
	text, err := c.do(ctx, link.Command{Name: link.CommandSeed})
	if err != nil {
		return nil, err
	}
	seed, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(seed) < link.SeedBytes {
		return nil, errors.New("cannot use the host's seed: it is malformed")
	}
	return seed, nil
}

// Freeze makes the machine a template and returns in its children: nil there. What the source gets, if anything, is an error.
// A freeze is asked for once: where its connection is lost the machine was forked, or has lost its host.
func (c *Client) Freeze(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	reply, err := c.transport.Once(ctx, link.Command{Name: link.CommandFreeze}.String())
	if err == nil {
		_, err = link.ParseReply(reply)
	}
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
