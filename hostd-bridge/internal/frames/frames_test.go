package frames

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/containervm/containervm/hostd-bridge/internal/frames/unixsocket"
)

func frame(n int, fill byte) []byte { return bytes.Repeat([]byte{fill}, n) }

func TestReaderGivesWhatWasWritten(t *testing.T) {
	var stream []byte
	var want [][]byte
	for i, n := range []int{HeaderLen, 60, 1514, Max, HeaderLen, Max, Max, 1514} {
		want = append(want, frame(n, byte(i)))
		stream = Append(stream, want[i][:6], want[i][6:])
	}
	for name, r := range map[string]io.Reader{
		"whole":     bytes.NewReader(stream),
		"by bytes":  iotest.OneByteReader(bytes.NewReader(stream)),
		"by halves": iotest.HalfReader(bytes.NewReader(stream)),
		"pieces":    &pieces{r: bytes.NewReader(stream)},
	} {
		reader, got := NewReader(r), 0
		for {
			batch, err := reader.Batch()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(name, err)
			}
			for f := range All(batch) {
				if !bytes.Equal(f, want[got]) {
					t.Fatalf("%s: frame %d has %d bytes of %d, or others", name, got, len(f), len(want[got]))
				}
				got++
			}
		}
		if got != len(want) {
			t.Errorf("%s: %d of %d frames", name, got, len(want))
		}
	}
}

// pieces reads lengths by chance.
type pieces struct{ r io.Reader }

func (p *pieces) Read(b []byte) (int, error) { return p.r.Read(b[:1+rand.IntN(len(b))]) }

func TestReaderRefuses(t *testing.T) {
	good := Append(nil, frame(60, 1))
	for name, c := range map[string]struct {
		stream []byte
		frames int
		want   error
	}{
		"too short":     {Append(nil, frame(HeaderLen-1, 0)), 0, ErrLength},
		"too long":      {Append(nil, frame(Max+1, 0)), 0, ErrLength},
		"far too long":  {[]byte{0xff, 0xff, 0xff, 0xff}, 0, ErrLength},
		"behind a good": {append(bytes.Clone(good), 0, 0, 0, 0), 1, ErrLength},
		"cut off":       {good[:20], 0, io.ErrUnexpectedEOF},
		"cut length":    {append(bytes.Clone(good), 0, 0), 1, io.ErrUnexpectedEOF},
		"nothing":       {nil, 0, io.EOF},
	} {
		r, n := NewReader(bytes.NewReader(c.stream)), 0
		var err error
		for err == nil {
			var batch []byte
			batch, err = r.Batch()
			for range All(batch) {
				n++
			}
		}
		if n != c.frames || !errors.Is(err, c.want) {
			t.Errorf("%s: %d frames and %v, want %d and %v", name, n, err, c.frames, c.want)
		}
	}
}

func TestHello(t *testing.T) {
	var b bytes.Buffer
	want := Hello{VM: "vm-7", MAC: "02:42:ac:11:00:02"}
	if err := WriteHello(&b, want); err != nil {
		t.Fatal(err)
	}
	b.WriteString("frames")
	got, mac, err := ReadHello(&b)
	if err != nil || got != want || mac != (Address{2, 0x42, 0xac, 0x11, 0, 2}) || b.String() != "frames" {
		t.Errorf("got %+v, %v, %v and %q is left", got, mac, err, b.String())
	}
	for _, text := range []string{
		"", "{", `{"vm":"a"}`, `{"mac":"ff:ff:ff:ff:ff:ff"}`, `{"mac":"01:00:5e:00:00:01"}`, `{"mac":"00:00:00:00:00:00"}`,
		`{"mac":"02:42:ac:11:00:02:00:00"}`, strings.Repeat(" ", maxHello+1),
	} {
		if h, _, err := ReadHello(bytes.NewReader(Append(nil, []byte(text)))); err == nil {
			t.Errorf("%q is taken for %+v", text, h)
		}
	}
	if err := WriteHello(io.Discard, Hello{VM: strings.Repeat("x", maxHello)}); err == nil {
		t.Error("a Hello is written that is not read")
	}
}

func TestDialInADirectoryWithALongName(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 100))
	if _, err := Dial(t.Context(), dir, Hello{}); err == nil {
		t.Error("there is a switch where no directory is")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := unixsocket.Listen(filepath.Join(dir, Socket))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := Dial(t.Context(), dir, Hello{VM: "vm-1", MAC: "02:00:00:00:00:01"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if h, _, err := ReadHello(s); err != nil || h.VM != "vm-1" {
		t.Errorf("the switch reads %+v, %v", h, err)
	}
}

// FuzzFrames: whatever bytes come, and in whatever pieces, the frames are within their bounds, the same, and all of a stream's.
func FuzzFrames(f *testing.F) {
	f.Add(Append(Append(nil, frame(60, 1)), frame(HeaderLen, 2)))
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{0, 1, 0, 17, 1, 2, 3})
	f.Fuzz(func(t *testing.T, stream []byte) {
		read := func(r io.Reader) (all []byte, err error) {
			reader := NewReader(r)
			for {
				batch, err := reader.Batch()
				if err != nil {
					return all, err
				}
				for f := range All(batch) {
					if len(f) < HeaderLen || len(f) > Max {
						t.Fatalf("a frame of %d bytes", len(f))
					}
					all = Append(all, f)
				}
			}
		}
		once, err := read(bytes.NewReader(stream))
		slow, slowErr := read(iotest.OneByteReader(bytes.NewReader(stream)))
		if !bytes.Equal(once, slow) || !bytes.HasPrefix(stream, once) {
			t.Error("the frames depend on how they came")
		}
		if errors.Is(err, ErrLength) != errors.Is(slowErr, ErrLength) || errors.Is(err, io.EOF) && len(once) != len(stream) {
			t.Errorf("%v, and by bytes %v, after %d of %d", err, slowErr, len(once), len(stream))
		}
	})
}

// FuzzHello: what is read as a Hello can be written and is read so again.
func FuzzHello(f *testing.F) {
	f.Add([]byte(`{"vm":"vm-1","mac":"02:42:ac:11:00:02"}`))
	f.Add([]byte(`{"mac":"02-42-AC-11-00-02","mac":""}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		h, mac, err := ReadHello(bytes.NewReader(Append(nil, text)))
		if err != nil {
			return
		}
		if mac.Group() {
			t.Errorf("%q is a card with the address %v", text, mac)
		}
		var b bytes.Buffer
		if err := WriteHello(&b, h); err != nil {
			return // its text has grown: other escapes
		}
		if again, _, err := ReadHello(&b); err != nil || again != h {
			t.Errorf("%+v is read as %+v (%v)", h, again, err)
		}
	})
}
