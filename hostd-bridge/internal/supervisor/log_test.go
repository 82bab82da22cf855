package supervisor

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
)

func TestLogCutsTornTailAndMarksRuns(t *testing.T) {
	path := filepath.Join(t.TempDir(), hostapi.LogFile)
	first := time.Unix(100, 0)
	whole := link.AppendRecord(nil, link.Record{Stream: link.StreamStdout, Time: first, Payload: []byte("whole")})
	if err := os.WriteFile(path, append(whole, whole[:10]...), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := openLog(path, "", time.Unix(200, 0))
	if err != nil {
		t.Fatal(err)
	}
	sent := link.AppendRecord(nil, link.Record{Stream: link.StreamStderr, Payload: []byte("new")})
	if err := l.receive(bytes.NewReader(sent), func() time.Time { return time.Unix(300, 0) }); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := link.AppendRecord(whole, link.Record{Stream: link.StreamRun, Time: time.Unix(200, 0)})
	want = link.AppendRecord(want, link.Record{Stream: link.StreamStderr, Time: time.Unix(300, 0), Payload: []byte("new")})
	if !bytes.Equal(got, want) {
		t.Errorf("log %q, not %q", got, want)
	}
}

func TestLogRefusesWhatIsNoRecord(t *testing.T) {
	l, err := openLog(filepath.Join(t.TempDir(), hostapi.LogFile), "", time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	size := l.size
	for name, sent := range map[string]string{
		"run marker": string(link.AppendRecord(nil, link.Record{Stream: link.StreamRun})),
		"garbage":    strings.Repeat("x", 100),
		"torn":       string(link.AppendRecord(nil, link.Record{Stream: link.StreamStdout, Payload: []byte("abc")})[:17]),
	} {
		if err := l.receive(strings.NewReader(sent), time.Now); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if l.size != size {
		t.Errorf("the log grew by %d bytes", l.size-size)
	}
}

// TestEndOfALogConnection: the host never ends the connection first. When the guest has ended its half all that it sent is in the file,
// and then the host's end tells it so.
func TestEndOfALogConnection(t *testing.T) {
	path := filepath.Join(t.TempDir(), hostapi.LogFile)
	out, err := openLog(path, "run 1", time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "guest"))
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	m.serving.Go(func() {
		m.accept(l, link.ServiceLog, func(c net.Conn) error { return out.receive(c, time.Now) })
	})
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	payload := bytes.Repeat([]byte("x"), 10_000)
	for range 50 {
		if _, err := conn.Write(link.AppendRecord(nil, link.Record{Stream: link.StreamStdout, Payload: payload})); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("before the guest's end: %v", err)
	}
	if err := errors.Join(conn.SetReadDeadline(time.Time{}), conn.(*net.UnixConn).CloseWrite()); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(conn); err != nil || len(b) != 0 {
		t.Errorf("after it: %d bytes, %v", len(b), err)
	}
	b, err := os.ReadFile(path)
	if err != nil || bytes.Count(b, payload) != 50 {
		t.Errorf("%d of 50 records are in the file when the host ends the connection, %v", bytes.Count(b, payload), err)
	}
	l.Close()
	m.serving.Wait()
}

func TestFollowersOfTheLog(t *testing.T) {
	l, err := openLog(filepath.Join(t.TempDir(), hostapi.LogFile), "", time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	out, in := io.Pipe()
	go func() { in.CloseWithError(l.copyTo(t.Context(), in, link.RecordHeader, true)) }()
	if err := l.append([]byte("one")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 3)
	if _, err := io.ReadFull(out, b); err != nil || string(b) != "one" {
		t.Fatalf("%q, %v", b, err)
	}
	if err := l.append([]byte("two")); err != nil {
		t.Fatal(err)
	}
	l.end()
	if rest, err := io.ReadAll(out); err != nil || string(rest) != "two" {
		t.Fatalf("%q, %v", rest, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l.ended = false
	if err := l.copyTo(ctx, io.Discard, 0, true); !errors.Is(err, context.Canceled) {
		t.Errorf("a follower that went away: %v", err)
	}
}
