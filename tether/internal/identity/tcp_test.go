package identity

import (
	"errors"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRenewTCP renews the key of a network namespace of its own, if that has one.
func TestRenewTCP(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for a network namespace; try: sudo go test")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread is spoiled
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		const key = "00000001-00000002-00000003-00000004"
		if detail, err := RenewTCP(); !errors.As(err, new(skip)) || !strings.Contains(err.Error(), "fast open has none; those of sequence numbers") {
			t.Errorf("without a key: %q, %v", detail, err)
		}
		if err := os.WriteFile(fastOpenKey, []byte(key), 0); err != nil {
			t.Error(err)
			return
		}
		detail, err := RenewTCP()
		now, readErr := os.ReadFile(fastOpenKey)
		words := regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{8}){3}\n$`)
		if err != nil || readErr != nil || !strings.HasPrefix(detail, "of fast open") || !words.Match(now) || strings.HasPrefix(string(now), key) {
			t.Errorf("%q, %v; %q, %v", detail, err, now, readErr)
		}
	}()
	<-done
}
