package supervisor

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// pair returns two connected sockets that pass files.
func pair(t testing.TB) (a, b *os.File) {
	t.Helper()
	a, b, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// TestFramesWithFiles: files arrive in their order, however many they are, and what follows the frame is left.
func TestFramesWithFiles(t *testing.T) {
	for _, n := range []int{0, 1, perMessage, perMessage + 1, 600} {
		left, right := pair(t)
		from, err := unixConn(left)
		if err != nil {
			t.Fatal(err)
		}
		to, err := unixConn(right)
		if err != nil {
			t.Fatal(err)
		}
		var files []*os.File
		for range n {
			f, err := os.CreateTemp(t.TempDir(), "f")
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
		sent := make(chan error, 1)
		go func() {
			err := sendFrame(from, Image{Name: strings.Repeat("n", 100_000), Levels: n}, files...)
			if err == nil {
				_, err = from.Write([]byte("rest"))
			}
			sent <- err
		}()
		var image Image
		got, err := receiveFrame(to, &image)
		if err != nil || len(got) != n || image.Levels != n {
			t.Fatalf("%d files of %d came, %d levels: %v", len(got), n, image.Levels, err)
		}
		for i := range got {
			want, err1 := files[i].Stat()
			is, err2 := got[i].Stat()
			if err := errors.Join(err1, err2); err != nil || !os.SameFile(want, is) {
				t.Fatalf("file %d of %d is another: %v", i, n, err)
			}
		}
		rest := make([]byte, 5)
		if n, err := to.Read(rest); err != nil || string(rest[:n]) != "rest" {
			t.Errorf("%q follows, %v", rest[:n], err)
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
		closeAll(files)
		closeAll(got)
		from.Close()
		to.Close()
	}
}

// TestFilesOfABadFrame: the files of what is no frame are closed.
func TestFilesOfABadFrame(t *testing.T) {
	left, right := pair(t)
	from, err := unixConn(left)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := unixConn(right)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	before := openFiles(t)
	for _, bad := range []string{"\x00\x00\x00\x02no", "\xff\xff\xff\xff"} {
		if _, _, err := from.WriteMsgUnix([]byte(bad), unix.UnixRights(int(left.Fd()), int(right.Fd())), nil); err != nil {
			t.Fatal(err)
		}
		var v Image
		if files, err := receiveFrame(to, &v); err == nil || files != nil {
			t.Errorf("%q: %d files, %v", bad, len(files), err)
		}
	}
	if now := openFiles(t); now > before {
		t.Errorf("%d descriptors are open, %d were", now, before)
	}
}

// TestForkPointIsFinal: what a supervisor hands out as its machine's memory is nothing that it can change later, nor anything else.
func TestForkPointIsFinal(t *testing.T) {
	sealed := func(name string) *os.File {
		f, err := newMemory(name, 4096)
		if err == nil {
			err = seal(f)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	open, err := newMemory("open", 4096)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	ok := sealed("a")
	if err := checkForkPoint([]*os.File{ok, sealed("b")}); err != nil {
		t.Error(err)
	}
	for name, files := range map[string][]*os.File{
		"open": {ok, open}, "a device": {null, ok}, "one": {ok}, "none": nil, "three": {ok, ok, ok},
	} {
		if err := checkForkPoint(files); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// TestLastReportIsBounded: exit.json comes from next to the guest. What is not whole or no report is none.
func TestLastReportIsBounded(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"empty": "", "torn": `{"reason":"x`, "too long": `{"reason":"` + strings.Repeat("x", maxReport) + `"}`} {
		if err := os.WriteFile(exitPath(dir), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if x, err := LastReport(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %+v, %v", name, x, err)
		}
	}
	if err := os.Remove(exitPath(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "other"), exitPath(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "other"), []byte(`{}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if x, err := LastReport(dir); err == nil {
		t.Errorf("a link was followed: %+v", x)
	}
}

// FuzzFromSupervisor: whatever a supervisor whose guest has broken it says, its client takes what has a bound, or gives up.
func FuzzFromSupervisor(f *testing.F) {
	frame := func(text string) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)
	}
	f.Add(frame(`{"unjoined":[1,-1,99]}`), uint8(0))
	f.Add(frame(`{"key":"a","value":"b"}`), uint8(1))
	f.Add(append(frame(`{"mark":{"name":"x"}}`), frame(`{"exit":{"reason":"r","guestinfo":{"a":"b"}}}`)...), uint8(2))
	f.Add([]byte("\xff\xff\xff\xff"), uint8(0))
	f.Fuzz(func(t *testing.T, said []byte, files uint8) {
		left, right, err := socketPair()
		if err != nil {
			t.Fatal(err)
		}
		from, err := unixConn(left)
		left.Close()
		if err != nil {
			t.Fatal(err)
		}
		to, err := unixConn(right)
		right.Close()
		if err != nil {
			t.Fatal(err)
		}
		defer to.Close()
		said = said[:min(len(said), 64<<10)] // what a socket takes
		fds := make([]int, files%8)
		for i := range fds {
			fds[i] = int(os.Stderr.Fd())
		}
		if len(said) > 0 {
			if _, _, err := from.WriteMsgUnix(said[:1], unix.UnixRights(fds...), nil); err != nil {
				t.Fatal(err)
			}
			if _, err := from.Write(said[1:]); err != nil {
				t.Fatal(err)
			}
		}
		from.Close()
		var hardware Hardware
		got, err := receiveFrame(to, &hardware)
		if err == nil {
			err = checkForkPoint(got)
		}
		if err == nil {
			t.Error("what is not sealed was taken as a fork point")
		}
		closeAll(got)
		_ = Events(to, func(Event) {})
		_, _ = readReport(strings.NewReader(string(said)))
	})
}
