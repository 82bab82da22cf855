package main

import (
	"testing"

	"github.com/containerd/errdefs"
)

// TestNothingIsHeld: a host learns by the class that nothing was held, or not any more: the fork that it took is good all the same.
func TestNothingIsHeld(t *testing.T) {
	if err := new(hold).release(nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("release of what is not held: %v", err)
	}
}
