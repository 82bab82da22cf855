package supervisor

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/frames/unixsocket"
	"github.com/containervm/containervm/tether/link"
)

func TestExitReasons(t *testing.T) {
	failed := exec.Command("false").Run()
	killed := exec.Command("sh", "-c", "kill -9 $$").Run()
	console := []byte("boot\nKernel panic - not syncing: Attempted to kill init! exitcode=0x00000100\r\nCPU: 0\n")
	for name, c := range map[string]struct {
		ending
		orderly bool
		reason  string
	}{
		"guest powered off":   {ending{shutdown: &shutdown{Guest: true, Reason: "guest-reset"}}, true, "powered itself off"},
		"panic":               {ending{shutdown: &shutdown{Guest: true, Reason: "guest-reset"}, console: console}, false, "guest kernel panic: Attempted to kill init! exitcode=0x00000100"},
		"exited, then panic":  {ending{console: console, guest: map[string]string{link.KeyStatus: `{"state":"EXITED"}`}}, true, "process has ended"},
		"failed":              {ending{guest: map[string]string{link.KeyStatus: `{"state":"FAILED"}`}}, true, "process has ended"},
		"status is nonsense":  {ending{guest: map[string]string{link.KeyStatus: `{`}, waitErr: failed}, false, "status 1"},
		"killed on request":   {ending{killed: true, waitErr: killed}, false, "on request"},
		"killed by another":   {ending{waitErr: killed}, false, "signal 9"},
		"QEMU failed":         {ending{waitErr: failed, stderr: "no disk"}, false, "status 1: no disk"},
		"QEMU asked to leave": {ending{shutdown: &shutdown{Reason: "host-signal"}}, false, "without a reason"},
	} {
		x := c.exit()
		if x.Orderly != c.orderly || !strings.Contains(x.Reason, c.reason) {
			t.Errorf("%s: %+v", name, x)
		}
	}
}

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	if err := writeFrame(&b, replyTo(&os.PathError{Op: "dial", Path: "x", Err: syscall.ECONNREFUSED})); err != nil {
		t.Fatal(err)
	}
	b.WriteString("raw")
	var r reply
	if err := readFrame(&b, &r); err != nil {
		t.Fatal(err)
	}
	if err := r.err(); !errors.Is(err, syscall.ECONNREFUSED) || b.String() != "raw" {
		t.Errorf("%v; %q left", err, b.String())
	}
	if err := readFrame(strings.NewReader("\xff\xff\xff\xff"), &r); err == nil {
		t.Error("an endless frame was taken")
	}
}

func FuzzRequest(f *testing.F) {
	var b bytes.Buffer
	if err := writeFrame(&b, request{Op: opSet, Set: map[string]string{"a": "b"}}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r request
		readFrame(bytes.NewReader(b), &r)
	})
}

// unixPair returns two connected unix sockets.
func unixPair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := unixsocket.Listen(socketPath(path))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = (&Client{runDir: path}).dial(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func TestHangup(t *testing.T) {
	client, served := unixPair(t)
	ctx, stop := hangup(t.Context(), served)
	stop()
	if !errors.Is(ctx.Err(), context.Canceled) {
		t.Errorf("after stop: %v", ctx.Err())
	}
	client.Write([]byte("x"))
	if _, err := served.Read(make([]byte, 1)); err != nil {
		t.Errorf("read after stop: %v", err)
	}
	ctx, stop = hangup(t.Context(), served)
	defer stop()
	client.Close()
	<-ctx.Done()
}

func TestLockSaysWhenProcessesAreGone(t *testing.T) {
	dir := t.TempDir()
	if err := AwaitEnd(t.Context(), dir); err != nil || Existed(dir) {
		t.Errorf("nothing was ever there: %v", err)
	}
	lock, err := takeLock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := takeLock(dir); err == nil {
		t.Error("taken twice")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := AwaitEnd(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("while it is held: %v", err)
	}
	lock.Close()
	if err := AwaitEnd(t.Context(), dir); err != nil || !Existed(dir) {
		t.Errorf("when it is free: %v", err)
	}
}

func TestConsoleIsBounded(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), hostapi.ConsoleFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	written := bytes.Repeat([]byte("0123456789abcde\n"), (consoleMax+consoleKeep)/16)
	copy(written[len(written)-4:], "end\n")
	c := copyConsole(f, io.NopCloser(bytes.NewReader(written)))
	<-c.done
	b, err := os.ReadFile(f.Name())
	if err != nil || c.err != nil || len(b) > consoleMax || len(b) < consoleKeep || !bytes.HasSuffix(written, b) {
		t.Errorf("%d bytes of %d are kept: %v, %v", len(b), len(written), err, c.err)
	}
}
