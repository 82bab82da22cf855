package guest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
)

// TestErrors: what a tether answers is final and has its class; what a link's end causes may be tried again.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		lost bool
		is   func(error) bool // of the error that says what failed
	}{
		{"no such session", link.Refuse(errdefs.ErrNotFound, "no session x"), false, errdefs.IsNotFound},
		{"not now", link.Refuse(errdefs.ErrFailedPrecondition, "nothing is held"), false, errdefs.IsFailedPrecondition},
		{"a tether that stops", link.Refuse(context.Canceled, "stopping"), true, errdefs.IsInternal},
		{"the link's end", fmt.Errorf("read: %w", link.ErrLost), true, func(err error) bool { return errors.Is(err, link.ErrLost) }},
		{"our own end", vsphere.ErrClosed, false, func(err error) bool { return errors.Is(err, vsphere.ErrClosed) }},
		{"no time left", context.DeadlineExceeded, false, func(err error) bool { return errors.Is(err, context.DeadlineExceeded) }},
	} {
		if got := Lost(c.err); got != c.lost {
			t.Errorf("%s: lost %v, want %v", c.name, got, c.lost)
		}
		if err := Failed(c.err, "cannot do %d", 1); !c.is(err) {
			t.Errorf("%s: %v has another class", c.name, err)
		}
	}
	if Failed(nil, "x") != nil || Lost(nil) {
		t.Error("no error is one")
	}
}
