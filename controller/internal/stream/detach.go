package stream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
)

// ErrDetached ends a stdin in which the detach keys were typed.
var ErrDetached = errors.New("read escape sequence")

// defaultDetachKeys is Docker's: Ctrl-P Ctrl-Q.
var defaultDetachKeys = []byte{'p' & 0x1f, 'q' & 0x1f}

// DetachKeys reads a sequence like "ctrl-p,ctrl-q" or "a,b"; empty is Docker's own.
func DetachKeys(s string) ([]byte, error) {
	if s == "" {
		return defaultDetachKeys, nil
	}
	var keys []byte
	for key := range strings.SplitSeq(s, ",") {
		code, ok := keyCode(key)
		if !ok {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid detach keys (%s): unknown key %q", s, key))
		}
		keys = append(keys, code)
	}
	return keys, nil
}

// keyCode is the byte that a terminal sends for a key: a character itself, or "ctrl-" and a letter or one of @[\]^_,
// whose codes are those of the character without its upper bits (ECMA-48).
func keyCode(key string) (byte, bool) {
	if len(key) == 1 && key[0] >= ' ' && key[0] <= '~' {
		return key[0], true
	}
	c, ok := strings.CutPrefix(key, "ctrl-")
	if !ok || len(c) != 1 {
		return 0, false
	}
	letter := c[0] >= 'a' && c[0] <= 'z'
	if !letter && !strings.Contains(`@[\]^_`, c) {
		return 0, false
	}
	return c[0] & 0x1f, true
}

// detachReader passes input on until the detach keys come in a row; a part of them that is not completed is input.
type detachReader struct {
	r     io.Reader
	keys  []byte
	typed int    // how many of the keys have come and are kept back
	out   []byte // to be read before r is
	err   error
}

// NewDetachReader reads r; no keys: nothing ends it but r's end.
func NewDetachReader(r io.Reader, keys []byte) io.Reader {
	if len(keys) == 0 {
		return r
	}
	return &detachReader{r: r, keys: keys}
}

func (d *detachReader) Read(p []byte) (int, error) {
	for len(d.out) == 0 && d.err == nil {
		n, err := d.r.Read(p)
		d.out = d.scan(p[:n])
		if d.err == nil && err != nil {
			d.out = append(d.out, d.keys[:d.typed]...)
			d.typed, d.err = 0, err
		}
	}
	n := copy(p, d.out)
	d.out = d.out[n:]
	if n == 0 && len(p) > 0 {
		return 0, d.err
	}
	return n, nil
}

// scan returns what of in is input for the process, in memory of its own.
func (d *detachReader) scan(in []byte) []byte {
	var out bytes.Buffer
	for _, b := range in {
		for d.typed > 0 && b != d.keys[d.typed] {
			next := border(d.keys[:d.typed])
			out.Write(d.keys[:d.typed-next])
			d.typed = next
		}
		if b != d.keys[d.typed] {
			out.WriteByte(b)
			continue
		}
		if d.typed++; d.typed == len(d.keys) {
			d.typed, d.err = 0, ErrDetached
			break
		}
	}
	return out.Bytes()
}

// border is the length of the longest proper suffix of s that is also a prefix of it.
func border(s []byte) int {
	for n := len(s) - 1; n > 0; n-- {
		if bytes.Equal(s[:n], s[len(s)-n:]) {
			return n
		}
	}
	return 0
}
