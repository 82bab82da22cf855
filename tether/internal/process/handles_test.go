package process

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestHandles: a signal is sent to those alone whom it does not end.
func TestHandles(t *testing.T) {
	const status = "Name:\tx\nSigBlk:\t0000000000000200\nSigIgn:\t0000000000001000\nSigCgt:\t0000000100000001\n"
	for sig, want := range map[unix.Signal]bool{
		unix.SIGHUP: true, unix.SIGUSR1: true /* blocked */, unix.SIGPIPE: false /* ignored */, unix.SIGTERM: false, 33: true, 64: false,
	} {
		if handles(status, sig) != want {
			t.Errorf("signal %d: %v", sig, !want)
		}
	}
	if handles("no status", unix.SIGHUP) {
		t.Error("a process without a status handles a signal")
	}
}
