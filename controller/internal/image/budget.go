package image

import (
	"encoding/json"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

const (
	// maxValues bounds the values in a manifest, an index or a configuration. Decoded, each takes up to some hundred bytes, however short its
	// text is: 8 MiB of `{},` would be 500 MB. Real images have some hundred.
	maxValues = 100_000
	// MaxImageBytes bounds the uncompressed tars of all layers of an image that are unpacked: more fits on no disk.
	MaxImageBytes = hostapi.DiskBytes
	// MaxUnpackedBytes bounds those of all images of a load. One layer may be in many chains, and each is unpacked by itself.
	MaxUnpackedBytes = 4 * MaxImageBytes
)

// decodeJSON is json.Unmarshal of a text that does not cost more than maxValues.
func decodeJSON(text []byte, v any) error {
	if n := countValues(text); n > maxValues {
		return fmt.Errorf("it has more than %d values", maxValues)
	}
	return json.Unmarshal(text, v)
}

// countValues is at least how many values a JSON text holds, keys apart: each but the first follows what opens an array or an object, or a comma.
func countValues(text []byte) (n int) {
	quoted := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ',' || c == '[' || c == '{'):
			n++
		}
	}
	return n + 1
}

// allowance is how many bytes may still be unpacked of something. Several goroutines may spend it.
type allowance struct {
	left atomic.Int64
	of   string // for people
}

func newAllowance(bytes int64, of string) *allowance {
	a := &allowance{of: of}
	a.left.Store(bytes)
	return a
}

// within is a writer that fails before more goes through it than each of some allowances has left.
func within(w io.Writer, all ...*allowance) io.Writer { return &spender{w, all} }

type spender struct {
	io.Writer
	all []*allowance
}

func (s *spender) Write(p []byte) (int, error) {
	for _, a := range s.all {
		if a.left.Add(-int64(len(p))) < 0 {
			return 0, invalid("%s", a.of)
		}
	}
	return s.Writer.Write(p)
}
