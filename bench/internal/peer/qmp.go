package peer

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// qmp is the control connection of one QEMU (docs/interop/qmp-spec), for one goroutine: commands one after the other, and
// waiting for events in between.
type qmp struct {
	conn   *net.UnixConn
	lines  *bufio.Reader
	events []qmpMessage // that came while a reply was awaited
}

type qmpMessage struct {
	Greeting *json.RawMessage `json:"QMP"`
	Return   json.RawMessage  `json:"return"`
	Error    *struct{ Desc string }
	Event    string
	Data     json.RawMessage
}

func newQMP(conn *net.UnixConn) *qmp {
	return &qmp{conn: conn, lines: bufio.NewReaderSize(conn, 64<<10)}
}

func (q *qmp) read() (m qmpMessage, err error) {
	line, err := q.lines.ReadBytes('\n')
	if err != nil {
		return m, fmt.Errorf("QEMU has closed its control connection: %w", err)
	}
	if err := json.Unmarshal(line, &m); err != nil {
		return m, fmt.Errorf("QEMU wrote what is no QMP: %w", err)
	}
	return m, nil
}

// greeting waits for QEMU's first word.
func (q *qmp) greeting() error {
	m, err := q.read()
	if err == nil && m.Greeting == nil {
		err = errors.New("QEMU does not greet")
	}
	return err
}

// handshake leaves the negotiation mode; no other command works before.
func (q *qmp) handshake() error {
	if err := q.greeting(); err != nil {
		return err
	}
	return q.run("qmp_capabilities", nil)
}

// run executes a command and waits for its reply.
func (q *qmp) run(command string, arguments any) error { return q.runWith(command, arguments, nil) }

// runWith passes a file along, which getfd takes.
func (q *qmp) runWith(command string, arguments any, file *os.File) error {
	b, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments})
	if err != nil {
		return err
	}
	var rights []byte
	if file != nil {
		rights = syscall.UnixRights(int(file.Fd()))
	}
	if _, _, err := q.conn.WriteMsgUnix(append(b, '\n'), rights, nil); err != nil {
		return fmt.Errorf("cannot send %s: %w", command, err)
	}
	for {
		m, err := q.read()
		switch {
		case err != nil:
			return fmt.Errorf("cannot execute %s: %w", command, err)
		case m.Event != "":
			q.events = append(q.events, m)
		case m.Error != nil:
			return fmt.Errorf("cannot execute %s: %s", command, m.Error.Desc)
		case m.Return != nil:
			return nil
		}
	}
}

// monitor executes a command of the human monitor, which says what is wrong instead of failing.
func (q *qmp) monitor(line string) error {
	before := len(q.events)
	b, err := json.Marshal(map[string]any{"execute": "human-monitor-command", "arguments": map[string]string{"command-line": line}})
	if err != nil {
		return err
	}
	if _, err := q.conn.Write(append(b, '\n')); err != nil {
		return err
	}
	for {
		m, err := q.read()
		if err != nil {
			return err
		}
		if m.Event != "" {
			q.events = append(q.events, m)
			continue
		}
		var said string
		if err := json.Unmarshal(m.Return, &said); err != nil || said != "" {
			return fmt.Errorf("%s: %s (after %d events)", line, said, len(q.events)-before)
		}
		return nil
	}
}

// await waits for an event whose data satisfy ok.
func (q *qmp) await(event string, ok func(json.RawMessage) (bool, error)) error {
	for {
		for len(q.events) > 0 {
			m := q.events[0]
			q.events = q.events[1:]
			if m.Event != event {
				continue
			}
			if done, err := ok(m.Data); done || err != nil {
				return err
			}
		}
		m, err := q.read()
		if err != nil {
			return fmt.Errorf("cannot wait for %s: %w", event, err)
		}
		q.events = append(q.events, m)
	}
}

// migrated waits for the end of a migration, in or out.
func (q *qmp) migrated() error {
	return q.await("MIGRATION", func(data json.RawMessage) (bool, error) {
		var d struct{ Status string }
		if err := json.Unmarshal(data, &d); err != nil {
			return false, err
		}
		if d.Status == "failed" {
			return false, errors.New("the migration failed")
		}
		return d.Status == "completed", nil
	})
}

// capabilities sets what a migration does: events tell of its end, and memory that is shared with a file stays there.
func (q *qmp) capabilities(ignoreShared bool) error {
	type capability struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	return q.run("migrate-set-capabilities", map[string]any{"capabilities": []capability{{"events", true}, {"x-ignore-shared", ignoreShared}}})
}
