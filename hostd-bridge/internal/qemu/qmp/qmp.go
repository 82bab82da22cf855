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
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
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
	return c.Send(name, arguments, nil).Wait(ctx, result)
}

// Call is a command that was sent.
type Call struct {
	client *Client
	name   string
	id     uint64
	answer chan message
	err    error // it was not sent
}

// Send sends a command, with an open file unless that is nil, and does not wait for the answer: QEMU takes commands one after the other.
func (c *Client) Send(name string, arguments any, file *os.File) *Call {
	call := &Call{client: c, name: name}
	if call.id, call.answer, call.err = c.register(); call.err != nil {
		return call
	}
	b, err := json.Marshal(command{Execute: name, Arguments: arguments, ID: call.id})
	if err == nil {
		err = c.write(append(b, '\n'), file)
	}
	if err != nil {
		c.unregister(call.id)
		call.err = err
	}
	return call
}

func (c *Client) write(b []byte, file *os.File) error {
	if file == nil {
		_, err := c.conn.Write(b)
		return err
	}
	conn, ok := c.conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("cannot pass %s: the connection is no unix socket", file.Name())
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	n := 0
	ctl := raw.Control(func(fd uintptr) { n, _, err = conn.WriteMsgUnix(b, unix.UnixRights(int(fd)), nil) })
	if err := errors.Join(ctl, err); err != nil || n == len(b) {
		return err
	}
	_, err = conn.Write(b[n:])
	return err
}

// Wait waits for the answer and decodes what the command returns into result, unless that is nil. The error is an *Error when QEMU refuses. It
// is called once.
func (call *Call) Wait(ctx context.Context, result any) error {
	m, err := call.wait(ctx)
	if err == nil && m.Error != nil {
		err = m.Error
	}
	if err == nil && result != nil {
		err = json.Unmarshal(m.Return, result)
	}
	if err != nil {
		return fmt.Errorf("cannot execute %s: %w", call.name, err)
	}
	return nil
}

func (call *Call) wait(ctx context.Context) (message, error) {
	if call.err != nil {
		return message{}, call.err
	}
	defer call.client.unregister(call.id)
	select {
	case m, ok := <-call.answer:
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
