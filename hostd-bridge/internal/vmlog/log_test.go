package vmlog

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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
	l, err := Open(rootOf(t, filepath.Dir(path)), hostapi.Log{}, hostapi.Marker{Run: 2}, time.Unix(200, 0), nil)
	if err != nil {
		t.Fatal(err)
	}
	sent := link.AppendRecord(nil, link.Record{Stream: link.StreamStderr, Payload: []byte("new")})
	if err := l.Receive(bytes.NewReader(sent), func() time.Time { return time.Unix(300, 0) }); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := link.AppendRecord(whole, link.Record{Stream: link.StreamRun, Time: time.Unix(200, 0), Payload: []byte("run 2")})
	want = link.AppendRecord(want, link.Record{Stream: link.StreamStderr, Time: time.Unix(300, 0), Payload: []byte("new")})
	if !bytes.Equal(got, want) {
		t.Errorf("log %q, not %q", got, want)
	}
}

func TestLogRefusesWhatIsNoRecord(t *testing.T) {
	l, err := Open(rootOf(t, t.TempDir()), hostapi.Log{}, hostapi.Marker{}, time.Unix(1, 0), nil)
	if err != nil {
		t.Fatal(err)
	}
	size := l.end()
	for name, sent := range map[string]string{
		"gap":        string(link.AppendRecord(nil, link.Gap(1))),
		"run marker": string(link.AppendRecord(nil, link.Record{Stream: link.StreamRun})),
		"garbage":    strings.Repeat("x", 100),
		"torn":       string(link.AppendRecord(nil, link.Record{Stream: link.StreamStdout, Payload: []byte("abc")})[:17]),
	} {
		if err := l.Receive(strings.NewReader(sent), time.Now); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if l.end() != size {
		t.Errorf("the log grew by %d bytes", l.end()-size)
	}
}

// end is where the log ends.
func (l *Log) end() int64 { return l.Place(Reader{From: -1}).Offset }

// record is one of stdout.
func record(text string) []byte {
	return link.AppendRecord(nil, link.Record{Stream: link.StreamStdout, Payload: []byte(text)})
}

func TestFollowersOfTheLog(t *testing.T) {
	l, err := Open(rootOf(t, t.TempDir()), hostapi.Log{}, hostapi.Marker{}, time.Unix(1, 0), nil)
	if err != nil {
		t.Fatal(err)
	}
	out, in := io.Pipe()
	place := l.Place(Reader{From: -1, Follow: true})
	go func() { in.CloseWithError(l.Copy(t.Context(), in, place)) }()
	if err := l.append(record("one"), time.Now()); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(record("one")))
	if _, err := io.ReadFull(out, b); err != nil || !bytes.Equal(b, record("one")) {
		t.Fatalf("%q, %v", b, err)
	}
	if err := l.append(record("two"), time.Now()); err != nil {
		t.Fatal(err)
	}
	l.Finish()
	if rest, err := io.ReadAll(out); err != nil || !bytes.Equal(rest, record("two")) {
		t.Fatalf("%q, %v", rest, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l.ended = false
	if err := l.Copy(ctx, io.Discard, l.Place(Reader{Follow: true})); !errors.Is(err, context.Canceled) {
		t.Errorf("a follower that went away: %v", err)
	}
}

// rootOf opens a directory.
func rootOf(t testing.TB, path string) *os.Root {
	t.Helper()
	dir, err := os.OpenRoot(path)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestPlantedLogs: whoever has broken a machine can put anything into its directory. Nothing is read or written by a link, and nothing waits for
// a pipe.
func TestPlantedLogs(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	record := link.AppendRecord(nil, link.Record{Stream: link.StreamStdout, Payload: []byte("secret")})
	if err := os.WriteFile(outside, record, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, plant := range map[string]func(path string) error{
		"link": func(path string) error { return os.Symlink(outside, path) },
		"pipe": func(path string) error { return unix.Mkfifo(path, 0o600) },
		"dir":  func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			if err := plant(filepath.Join(home, hostapi.LogFile)); err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			if err := CopyFiles(&b, home, 0, false); err == nil || b.Len() > 0 {
				t.Errorf("%d bytes were read, %v", b.Len(), err)
			}
			if _, err := End(home, 0); err == nil {
				t.Error("its end was found")
			}
			if err := Inherit(home, t.TempDir(), hostapi.Log{}); err == nil {
				t.Error("it was inherited")
			}
			if _, err := Open(rootOf(t, home), hostapi.Log{}, hostapi.Marker{Run: 1}, time.Unix(1, 0), nil); err == nil {
				t.Error("it was opened for writing")
			}
			to := t.TempDir()
			if err := os.Symlink(outside, filepath.Join(to, hostapi.LogFile)); err != nil {
				t.Fatal(err)
			}
			if err := write(to, []byte("new")); err != nil {
				t.Error(err)
			}
		})
	}
	if b, err := os.ReadFile(outside); err != nil || !bytes.Equal(b, record) {
		t.Errorf("the file outside: %q, %v", b, err)
	}
}
