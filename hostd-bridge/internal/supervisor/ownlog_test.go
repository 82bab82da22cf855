package supervisor

import (
	"bytes"
	"strings"
	"testing"
)

// TestOwnLogIsBounded: a guest that has its supervisor complain without end fills no disk.
func TestOwnLogIsBounded(t *testing.T) {
	var file bytes.Buffer
	log := newLog(&file, false)
	for range 2 * maxOwnLog / 100 {
		log.Warn("connection of the guest failed", "service", "log", "err", strings.Repeat("x", 100))
	}
	if file.Len() > maxOwnLog+len(logIsFull) || !strings.HasSuffix(file.String(), logIsFull) {
		t.Errorf("%d bytes are logged", file.Len())
	}
}
