// Package qmp is a client of QEMU's machine protocol (docs/interop/qmp-spec): one JSON object per line.
package qmp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// maxMessage bounds one message of QEMU, in bytes.
const maxMessage = 4 << 20

// Event is something that QEMU reports by itself.
type Event struct {
	Name string          // "SHUTDOWN", "RESET", "STOP", ...
	Data json.RawMessage // as the QAPI schema says for the name; may be empty
}

// Error is QEMU's refusal of a command.
type Error struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

// Error returns QEMU's description.
func (e *Error) Error() string { return e.Desc }

// ErrClosed says that QEMU has closed the connection, which it does when it ends.
var ErrClosed = errors.New("QEMU has closed its control connection")

// message is anything that QEMU sends.
type message struct {
	Greeting *json.RawMessage `json:"QMP"`
	Return   json.RawMessage  `json:"return"`
	Error    *Error           `json:"error"`
	ID       uint64           `json:"id"`
	Event    string           `json:"event"`
	Data     json.RawMessage  `json:"data"`
}

type command struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        uint64 `json:"id"`
}

// Client sends commands to one QEMU. Its methods may be called by several goroutines.
type Client struct {
	conn   io.ReadWriteCloser
	events func(Event)
	done   chan struct{} // closed when nothing is read any more

	mu     sync.Mutex
	last   uint64
	calls  map[uint64]chan message // each holds one answer
	closed bool
}

// New speaks QMP over conn, which it owns, and passes every event to events, from one goroutine. events must not call
// the Client.
func New(conn io.ReadWriteCloser, events func(Event)) *Client {
	c := &Client{conn: conn, events: events, calls: map[uint64]chan message{}, done: make(chan struct{})}
	go c.read()
	return c
}

// Handshake leaves the negotiation mode; no other command works before.
func (c *Client) Handshake(ctx context.Context) error {
	return c.Execute(ctx, "qmp_capabilities", nil, nil)
}

// Execute runs a command and decodes what it returns into result, unless that is nil. The error is an *Error when QEMU
// refuses.
func (c *Client) Execute(ctx context.Context, name string, arguments, result any) error {
	m, err := c.call(ctx, name, arguments)
	if err == nil && m.Error != nil {
		err = m.Error
	}
	if err == nil && result != nil {
		err = json.Unmarshal(m.Return, result)
	}
	if err != nil {
		return fmt.Errorf("cannot execute %s: %w", name, err)
	}
	return nil
}

func (c *Client) call(ctx context.Context, name string, arguments any) (message, error) {
	id, answer, err := c.register()
	if err != nil {
		return message{}, err
	}
	defer c.unregister(id)
	b, err := json.Marshal(command{Execute: name, Arguments: arguments, ID: id})
	if err != nil {
		return message{}, err
	}
	if _, err := c.conn.Write(append(b, '\n')); err != nil {
		return message{}, err
	}
	select {
	case m, ok := <-answer:
		if !ok {
			return message{}, ErrClosed
		}
		return m, nil
	case <-ctx.Done():
		return message{}, context.Cause(ctx)
	}
}

func (c *Client) register() (uint64, chan message, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, nil, ErrClosed
	}
	c.last++
	answer := make(chan message, 1)
	c.calls[c.last] = answer
	return c.last, answer, nil
}

func (c *Client) unregister(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.calls, id)
}

// Done is closed when the connection has ended, by QEMU or by Close: all events have been passed on then.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection; commands in flight fail with ErrClosed.
func (c *Client) Close() error { return c.conn.Close() }

// read passes on what QEMU sends until it closes the connection or sends what is no QMP.
func (c *Client) read() {
	defer close(c.done)
	defer c.fail()
	lines := bufio.NewScanner(c.conn)
	lines.Buffer(nil, maxMessage)
	for lines.Scan() {
		m, err := decode(lines.Bytes())
		if err != nil {
			return
		}
		c.dispatch(m)
	}
}

func (c *Client) fail() {
	c.conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, answer := range c.calls {
		close(answer)
	}
	clear(c.calls)
}

func (c *Client) dispatch(m message) {
	if m.Event != "" {
		c.events(Event{Name: m.Event, Data: m.Data})
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if answer, ok := c.calls[m.ID]; ok {
		delete(c.calls, m.ID)
		answer <- m
	}
}

// decode takes one line.
func decode(line []byte) (message, error) {
	var m message
	if err := json.Unmarshal(bytes.TrimSpace(line), &m); err != nil {
		return message{}, fmt.Errorf("cannot decode QEMU's message: %w", err)
	}
	return m, nil
}
