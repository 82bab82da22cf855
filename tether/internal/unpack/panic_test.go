package unpack

import (
	"strings"
	"testing"
)

// brokenReader panics.
type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { panic("broken") }

func TestPanicIsAnError(t *testing.T) {
	needRoot(t)
	if _, err := Layer(t.Context(), t.TempDir(), brokenReader{}, Limits{}); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("%v", err)
	}
}
