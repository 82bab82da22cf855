package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
)

// fakeQEMU greets, and answers each command by answer.
func fakeQEMU(t *testing.T, conn net.Conn, answer func(c command) string) {
	t.Helper()
	go func() {
		fmt.Fprintln(conn, `{"QMP": {"version": {}, "capabilities": []}}`)
		lines := bufio.NewScanner(conn)
		for lines.Scan() {
			var c command
			if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
				t.Error(err)
			}
			text := answer(c)
			if text == "" {
				conn.Close()
				return
			}
			io.WriteString(conn, text+"\r\n")
		}
	}()
}

func newClient(t *testing.T, events func(Event), answer func(c command) string) *Client {
	ours, theirs := net.Pipe()
	fakeQEMU(t, theirs, answer)
	c := New(ours, events)
	t.Cleanup(func() { c.Close() })
	return c
}

func TestExecute(t *testing.T) {
	events := make(chan Event, 1)
	c := newClient(t, func(e Event) { events <- e }, func(c command) string {
		switch c.Execute {
		case "query-status":
			return fmt.Sprintf(`{"return": {"status": "running"}, "id": %d}`, c.ID)
		case "stop":
			return fmt.Sprintf("{\"event\": \"STOP\", \"data\": {\"a\": 1}}\n{\"return\": {}, \"id\": %d}", c.ID)
		case "quit":
			return ""
		}
		return fmt.Sprintf(`{"error": {"class": "CommandNotFound", "desc": "no such command"}, "id": %d}`, c.ID)
	})
	var status struct{ Status string }
	if err := c.Execute(t.Context(), "query-status", nil, &status); err != nil || status.Status != "running" {
		t.Errorf("%+v, %v", status, err)
	}
	if err := c.Execute(t.Context(), "stop", nil, nil); err != nil {
		t.Error(err)
	}
	if e := <-events; e.Name != "STOP" || string(e.Data) != `{"a": 1}` {
		t.Errorf("event %+v", e)
	}
	var refusal *Error
	if err := c.Handshake(t.Context()); !errors.As(err, &refusal) || refusal.Class != "CommandNotFound" {
		t.Errorf("%v", err)
	}
	if err := c.Execute(t.Context(), "quit", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("QEMU went away: %v", err)
	}
	if err := c.Execute(t.Context(), "stop", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("QEMU is away: %v", err)
	}
}

func TestExecuteGivesUpWithItsContext(t *testing.T) {
	asked := make(chan struct{})
	c := newClient(t, func(Event) {}, func(c command) string {
		close(asked)
		return `{"return": {}, "id": 4711}` // of no command
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	if err := c.Execute(ctx, "stop", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestGarbageEndsTheConnection(t *testing.T) {
	c := newClient(t, func(Event) {}, func(c command) string { return "garbage" })
	if err := c.Execute(t.Context(), "stop", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"QMP": {}}`))
	f.Add([]byte(`{"return": {}, "id": 1}`))
	f.Add([]byte(`{"error": {"class": "c", "desc": "d"}, "id": 2}`))
	f.Add([]byte(`{"event": "STOP", "data": {}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := decode(line)
		if err != nil {
			return
		}
		c := &Client{events: func(Event) {}, calls: map[uint64]chan message{1: make(chan message, 1)}}
		c.dispatch(m)
		c.dispatch(m) // a second answer is dropped
	})
}
