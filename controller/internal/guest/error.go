package guest

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
)

// Lost reports whether a call that failed may be made again over a new link: the error is neither the tether's answer nor our own
// end. A tether that stops serving answers that calls are cancelled.
func Lost(err error) bool {
	var refusal *link.Refusal
	if errors.As(err, &refusal) {
		return errors.Is(err, context.Canceled) || errdefs.IsUnknown(err)
	}
	return err != nil && !errors.Is(err, vsphere.ErrClosed) && !errors.Is(err, context.DeadlineExceeded)
}

// Failed says what a tether did not do. Its refusal keeps its class (package errdefs), which is also an answer's class in Docker's
// API; the end of its own context does not, since that is not the client's. nil stays nil.
func Failed(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	what := fmt.Sprintf(format, args...)
	var refusal *link.Refusal
	if errors.As(err, &refusal) && (errors.Is(refusal, context.Canceled) || errors.Is(refusal, context.DeadlineExceeded)) {
		return errdefs.ErrInternal.WithMessage(what + ": " + refusal.Error())
	}
	return fmt.Errorf("%s: %w", what, err)
}
