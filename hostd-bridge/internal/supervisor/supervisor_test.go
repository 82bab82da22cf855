package supervisor

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/internal/smaps"
	"github.com/containervm/containervm/tether/link"
)

func TestLogCutsTornTailAndMarksRuns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stdio.log")
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
	l, err := openLog(filepath.Join(t.TempDir(), "stdio.log"), "", time.Unix(1, 0))
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
	path := filepath.Join(t.TempDir(), "stdio.log")
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
	l, err := openLog(filepath.Join(t.TempDir(), "stdio.log"), "", time.Unix(1, 0))
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
	l, err := listen(path)
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
	path := filepath.Join(t.TempDir(), "console.log")
	written := bytes.Repeat([]byte("0123456789abcde\n"), (consoleMax+consoleKeep)/16)
	copy(written[len(written)-4:], "end\n")
	c, err := copyConsole(path, io.NopCloser(bytes.NewReader(written)))
	if err != nil {
		t.Fatal(err)
	}
	<-c.done
	b, err := os.ReadFile(path)
	if err != nil || c.err != nil || len(b) > consoleMax || len(b) < consoleKeep || !bytes.HasSuffix(written, b) {
		t.Errorf("%d bytes of %d are kept: %v, %v", len(b), len(written), err, c.err)
	}
}

func TestMemoryIsCopiedWithoutZeros(t *testing.T) {
	src, err := newMemory("src", 4<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := newMemory("dst", 4<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	page := bytes.Repeat([]byte("x"), pageSize)
	for at, b := range map[int64][]byte{0: page, 2 << 20: page, 2<<20 + pageSize: zeroPage[:], 4<<20 - pageSize: page} {
		if _, err := src.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := copyPages(t.Context(), dst, src); err != nil {
		t.Fatal(err)
	}
	got, want := make([]byte, 4<<20), make([]byte, 4<<20)
	if _, err := dst.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := src.ReadAt(want, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the copy differs: %v", err)
	}
	if n := resident(dst); n != 3*pageSize {
		t.Errorf("the copy has %d bytes of pages", n)
	}
}

// TestUsage: a child's pages are those that it has written to, a template's are of a file; what is mapped of QEMU's own files
// counts once it was written to.
func TestUsage(t *testing.T) {
	got := usageOf([]smaps.Mapping{
		{Name: "/memfd:cvm-ram (deleted)", Size: 512 << 10, Anonymous: 3 << 10, PrivateDirty: 5 << 10},
		{Name: "/usr/bin/qemu-system-x86_64", Size: 20 << 10, PrivateDirty: 100},
		{Name: "/memfd:other-cvm-ram (deleted)", Size: 4, Anonymous: 4, PrivateDirty: 4},
		{Size: 8 << 10, Anonymous: 7 << 10, PrivateDirty: 7 << 10},
	})
	if want := (hostapi.Memory{GuestPrivateKiB: 3 << 10, OverheadKiB: 100 + 4 + 7<<10}); got != want {
		t.Errorf("usage %+v, want %+v", got, want)
	}
}

func TestSealedMemoryIsFinal(t *testing.T) {
	f, err := newMemory("sealed", pageSize)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := seal(f); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, syscall.EPERM) {
		t.Errorf("write: %v", err)
	}
	if err := f.Truncate(0); !errors.Is(err, syscall.EPERM) {
		t.Errorf("truncate: %v", err)
	}
	again, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := again.WriteAt([]byte("x"), 0); !errors.Is(err, syscall.EPERM) {
		t.Errorf("write by a second descriptor: %v", err)
	}
}
