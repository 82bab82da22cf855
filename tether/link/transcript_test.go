package link_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/tether/link"
	"github.com/containervm/containervm/tether/link/linktest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Transcripts are what version 1 said on the wire. This version must say the same and understand it. A change that one of these tests
// finds is one that a deployed peer meets: record a new file beside the old one rather than over it.
var record = flag.Bool("record", false, "write testdata/session-v1.txt anew")

const sessionTranscript = "testdata/session-v1.txt"

// line is a line of a transcript: a preface or a yamux frame, or a guestinfo message, or a log record.
type line struct {
	from string // H host, T tether
	raw  []byte
}

func readTranscript(t *testing.T, path string) []line {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lines []line
	for s := range strings.Lines(string(text)) {
		from, digits, ok := strings.Cut(strings.TrimSpace(s), " ")
		if !ok || from == "#" {
			continue
		}
		raw, err := hex.DecodeString(digits)
		if err != nil {
			t.Fatalf("%s: %q: %v", path, s, err)
		}
		lines = append(lines, line{from, raw})
	}
	return lines
}

// yamux's frames (its spec.md): version, type, flags, stream and length, then data if it is the type for that.
const (
	muxHeader       = 12
	muxData         = 0
	muxWindowUpdate = 1
	muxSyn          = 1
)

// said is what one side has said so far: how often it opened each stream, and the data on it.
type said struct {
	preface []byte
	opened  map[uint32]int
	data    map[uint32][]byte
}

func newSaid() *said { return &said{opened: map[uint32]int{}, data: map[uint32][]byte{}} }

func (s *said) add(raw []byte) {
	if s.preface == nil {
		s.preface = raw
		return
	}
	stream := binary.BigEndian.Uint32(raw[4:])
	if binary.BigEndian.Uint16(raw[2:])&muxSyn != 0 {
		s.opened[stream]++
	}
	s.data[stream] = append(s.data[stream], raw[muxHeader:]...)
}

// covers reports whether s is at least as far as other.
func (s *said) covers(other *said) bool {
	for stream, n := range other.opened {
		if s.opened[stream] < n {
			return false
		}
	}
	for stream, data := range other.data {
		if len(s.data[stream]) < len(data) {
			return false
		}
	}
	return s.preface != nil || other.preface == nil
}

// next reads the next thing that a side says, and nil for a mere update of a window.
func next(r io.Reader, first bool) ([]byte, error) {
	raw := make([]byte, muxHeader)
	if first {
		raw = raw[:8]
	}
	if _, err := io.ReadFull(r, raw); err != nil || first {
		return raw, err
	}
	if raw[1] == muxData {
		raw = append(raw, make([]byte, binary.BigEndian.Uint32(raw[8:]))...)
		_, err := io.ReadFull(r, raw[muxHeader:])
		return raw, err
	}
	if raw[1] == muxWindowUpdate && binary.BigEndian.Uint16(raw[2:]) == 0 {
		return nil, nil
	}
	return raw, nil
}

// play is one side of a transcript on conn: it sends what that side sent, each time when the peer has come as far as it had then. It
// returns what the peer has said until then, and what it is to have said.
func play(t *testing.T, conn net.Conn, lines []line, side string) (peer, want *said) {
	t.Helper()
	var mu sync.Mutex
	changed := make(chan struct{}, 1)
	got, want := newSaid(), newSaid()
	go func() { // ends with conn
		for first := true; ; first = false {
			raw, err := next(conn, first)
			if err != nil {
				return
			}
			if raw != nil {
				mu.Lock()
				got.add(raw)
				mu.Unlock()
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}()
	limit := time.After(20 * time.Second)
	for _, l := range lines {
		if l.from == side {
			if _, err := conn.Write(l.raw); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want.add(l.raw)
		for arrived := false; !arrived; {
			mu.Lock()
			arrived = got.covers(want)
			mu.Unlock()
			if arrived {
				break
			}
			select {
			case <-changed:
			case <-limit:
				t.Fatalf("the peer does not say what version 1 said: % x", l.raw)
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	return &said{preface: got.preface, opened: maps.Clone(got.opened), data: maps.Clone(got.data)}, want
}

func compareSaid(t *testing.T, got, want *said) {
	t.Helper()
	if !bytes.Equal(got.preface, want.preface) {
		t.Errorf("preface % x, want % x", got.preface, want.preface)
	}
	for stream, data := range want.data {
		if !bytes.Equal(got.data[stream], data) {
			t.Errorf("stream %d:\n%q, want\n%q", stream, got.data[stream], data)
		}
	}
}

// converse is the host's half of the recorded session. One thing happens after the other, so that it is the same each time.
func converse(t *testing.T, conn net.Conn) {
	ctx := t.Context() // without a deadline: that would be sent
	c, err := link.NewClient(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rpc := c.Tether()
	info, err := rpc.Info(ctx, &tetherv1.InfoRequest{})
	if err != nil || info.Version != "1.0" || info.Status.GetPid() != 2 || len(info.SessionInfos) != 1 || info.SessionInfos[0].Pid != 7 {
		t.Errorf("info: %v, %v", info, err)
	}
	pid, err := rpc.Exec(ctx, &tetherv1.ExecRequest{Session: "job", Process: &tetherv1.Process{Args: []string{"cat"}, Stdin: true}, AttachStdout: true})
	if err != nil || pid.Pid != 7 {
		t.Errorf("exec: %v, %v", pid, err)
	}
	if _, err := rpc.Exec(ctx, &tetherv1.ExecRequest{Session: "taken"}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("exec of a name that is taken: %v", err)
	}
	in, err := c.OpenInput(ctx, "job")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, "first\nsecond\n"); err != nil {
		t.Error(err)
	}
	if err := in.CloseWrite(); err != nil {
		t.Error(err)
	}
	out, err := c.OpenOutput(ctx, "job", link.StreamStdout, 6)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(out); err != nil || string(text) != "second\n" || out.Offset() != 6 {
		t.Errorf("output from %d: %q, %v", out.Offset(), text, err)
	}
	if _, err := c.OpenOutput(ctx, "none", link.StreamStderr, -1); !errdefs.IsNotFound(err) {
		t.Errorf("output of no session: %v", err)
	}
	if res, err := rpc.Wait(ctx, &tetherv1.WaitRequest{Session: "job"}); err != nil || res.Exit.GetCode() != 3 {
		t.Errorf("wait: %v, %v", res, err)
	}
}

// TestRecordedTether: a host of this version speaks with a tether of version 1.
func TestRecordedTether(t *testing.T) {
	host, tether := linktest.SocketPair(t)
	if *record {
		recordSession(t)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		converse(t, host)
	}()
	got, want := play(t, tether, readTranscript(t, sessionTranscript), "T")
	<-done
	compareSaid(t, got, want)
}

// TestRecordedHost: a tether of this version speaks with a host of version 1.
func TestRecordedHost(t *testing.T) {
	conn, stop := new(job).start()
	defer stop()
	got, want := play(t, conn, readTranscript(t, sessionTranscript), "H")
	compareSaid(t, got, want)
}

// TestRecordedGuestinfo: commands of a guest of version 1 are understood, and answered as they were.
func TestRecordedGuestinfo(t *testing.T) {
	lines := readTranscript(t, "testdata/guestinfo-v1.txt")
	h := linktest.NewHost(t, map[string]string{link.KeySpec: `{"hostname":"box"}`})
	conn, err := h.Dial(link.ServiceGuestinfo)
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range lines {
		text, err := link.ReadMessage(bytes.NewReader(l.raw))
		if err != nil {
			t.Fatal(err)
		}
		var again bytes.Buffer
		if err := link.WriteMessage(&again, text); err != nil || !bytes.Equal(again.Bytes(), l.raw) {
			t.Errorf("%q is sent as % x, want % x, %v", text, again.Bytes(), l.raw, err)
		}
		if l.from == "H" {
			continue // the answer to the command before it
		}
		c, err := link.ParseCommand(text)
		if err != nil || c.String() != text {
			t.Errorf("command %q: %q, %v", text, c, err)
		}
		if i+1 == len(lines) || lines[i+1].from != "H" {
			continue // its answer is another one each time
		}
		if _, err := conn.Write(l.raw); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, len(lines[i+1].raw))
		if _, err := io.ReadFull(conn, answer); err != nil || !bytes.Equal(answer, lines[i+1].raw) {
			t.Errorf("%q is answered by %q, want %q, %v", text, answer, lines[i+1].raw, err)
		}
	}
}

// TestRecordedLog: a log that version 1 has written is read, and written again the same.
func TestRecordedLog(t *testing.T) {
	var log, again []byte
	for _, l := range readTranscript(t, "testdata/log-v1.txt") {
		log = append(log, l.raw...)
	}
	var text []string
	records := link.NewRecordReader(bufio.NewReader(bytes.NewReader(log)))
	for {
		r, err := records.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, fmt.Sprintf("%s %d %q", r.Stream, max(0, r.Time.UnixNano()), r.Payload))
		again = link.AppendRecord(again, r)
	}
	want := []string{`run 1700000000000000000 ""`, `stdout 1700000000000000001 "out\n"`, `stderr 0 "err"`, `run 1700000000000000002 "fork 1 2"`,
		`run 1700000000000000003 "run 2"`, `run 1700000000000000004 "run 3 fork 1 2"`}
	if got := strings.Join(text, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
	if !bytes.Equal(again, log) {
		t.Errorf("% x, want % x", again, log)
	}
}
