package stream

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestDetachKeys(t *testing.T) {
	for in, want := range map[string]string{
		"": "\x10\x11", "ctrl-a": "\x01", "ctrl-p,ctrl-q": "\x10\x11", "a,b": "ab", "ctrl-@,ctrl-[,ctrl-_": "\x00\x1b\x1f", ",": "", "ctrl-": "", "ctrl-A": "", "ab": "", "é": "",
	} {
		got, err := DetachKeys(in)
		if (err != nil) != (want == "") || string(got) != want {
			t.Errorf("DetachKeys(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestDetachReader(t *testing.T) {
	for _, c := range []struct {
		name, keys, in, want string
		detached             bool
	}{
		{"no keys", "", "abc", "abc", false},
		{"not typed", "xy", "abc", "abc", false},
		{"typed", "xy", "abxycd", "ab", true},
		{"first key alone", "xy", "xaxbx", "xaxbx", false},
		{"first key twice", "xy", "xxy", "x", true},
		{"begins again within itself", "xxy", "xxxy", "x", true},
		{"border longer than one", "xyxz", "xyxyxz", "xy", true},
		{"held back at the end", "xyz", "axy", "axy", false},
	} {
		for _, r := range []io.Reader{strings.NewReader(c.in), iotest.OneByteReader(strings.NewReader(c.in)), iotest.DataErrReader(strings.NewReader(c.in))} {
			got, err := io.ReadAll(NewDetachReader(r, []byte(c.keys)))
			if string(got) != c.want || errors.Is(err, ErrDetached) != c.detached || !c.detached && err != nil {
				t.Errorf("%s: read %q, %v; want %q, detached %v", c.name, got, err, c.want, c.detached)
			}
		}
	}
}

// FuzzDetachReader holds the reader to what it means: input up to the first occurrence of the keys.
func FuzzDetachReader(f *testing.F) {
	f.Add([]byte("abxyxzcd"), []byte("xyxz"), 3)
	f.Add([]byte("xxxy"), []byte("xxy"), 1)
	f.Fuzz(func(t *testing.T, in, keys []byte, step int) {
		if len(keys) == 0 || len(keys) > 16 {
			return
		}
		want, _, found := bytes.Cut(in, keys)
		if !found {
			want = in
		}
		got, err := io.ReadAll(NewDetachReader(&stepReader{in, max(1, step%9)}, keys))
		if !bytes.Equal(got, want) || errors.Is(err, ErrDetached) != found {
			t.Errorf("keys %q in %q: read %q, %v; want %q, detached %v", keys, in, got, err, want, found)
		}
	})
}

// stepReader yields n bytes at a time.
type stepReader struct {
	data []byte
	n    int
}

func (s *stepReader) Read(p []byte) (int, error) {
	if len(s.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.data[:min(s.n, len(s.data))])
	s.data = s.data[n:]
	return n, nil
}

func FuzzDetachKeys(f *testing.F) {
	f.Add("ctrl-p,ctrl-q")
	f.Fuzz(func(t *testing.T, s string) {
		if keys, err := DetachKeys(s); err == nil && len(keys) != max(2*btoi(s == ""), strings.Count(s, ",")+1) {
			t.Errorf("DetachKeys(%q) = %q: not one byte for each key", s, keys)
		}
	})
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
