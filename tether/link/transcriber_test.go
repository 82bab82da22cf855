package link_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
)

// transcriber writes down what passes through the host's end of a connection, in the order in which the host saw it.
type transcriber struct {
	net.Conn
	mu      sync.Mutex
	pending map[string]*bytes.Buffer
	started map[string]bool
	lines   strings.Builder
}

func (r *transcriber) Write(p []byte) (int, error) {
	r.note("H", p)
	return r.Conn.Write(p)
}

func (r *transcriber) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.note("T", p[:n])
	return n, err
}

// note writes down what is complete.
func (r *transcriber) note(from string, p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.pending[from]
	all.Write(p)
	for {
		rest := bytes.NewReader(all.Bytes())
		raw, err := next(rest, !r.started[from])
		if err != nil {
			return
		}
		all.Next(all.Len() - rest.Len())
		r.started[from] = true
		if raw != nil {
			fmt.Fprintf(&r.lines, "%s %x\n", from, raw)
		}
	}
}

func recordSession(t *testing.T) {
	conn, stop := new(job).start()
	defer stop()
	r := &transcriber{Conn: conn, pending: map[string]*bytes.Buffer{"H": {}, "T": {}}, started: map[string]bool{}}
	converse(t, r)
	r.mu.Lock()
	defer r.mu.Unlock()
	head := "# A link session of version 1 as the host saw it: H the host's bytes, T the tether's, one preface or yamux frame a line.\n"
	if err := os.WriteFile(sessionTranscript, []byte(head+r.lines.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
