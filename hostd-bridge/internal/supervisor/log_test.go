package supervisor

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vmlog"
	"github.com/containervm/containervm/tether/link"
)

// TestEndOfALogConnection: the host never ends the connection first. When the guest has ended its half all that it sent is in the file,
// and then the host's end tells it so.
func TestEndOfALogConnection(t *testing.T) {
	home := t.TempDir()
	path := filepath.Join(home, hostapi.LogFile)
	dir, err := os.OpenRoot(home)
	if err != nil {
		t.Fatal(err)
	}
	out, err := vmlog.Open(dir, hostapi.Log{}, hostapi.Marker{Run: 1}, time.Unix(1, 0), nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "guest"))
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	m.serving.Go(func() {
		m.accept(l, link.ServiceLog, func(c net.Conn) error { return out.Receive(c, time.Now) })
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
