package container

import (
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// linkError says what a tether would not do, with the class of its answer; nil stays nil.
func linkError(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	what := fmt.Sprintf(format, args...)
	st, ok := status.FromError(err)
	if !ok {
		return fmt.Errorf("%s: %w", what, err)
	}
	text := what + ": " + st.Message()
	switch st.Code() {
	case codes.NotFound:
		return errdefs.ErrNotFound.WithMessage(text)
	case codes.InvalidArgument:
		return errdefs.ErrInvalidArgument.WithMessage(text)
	case codes.AlreadyExists, codes.FailedPrecondition:
		return errdefs.ErrConflict.WithMessage(text)
	case codes.Unimplemented:
		return errdefs.ErrNotImplemented.WithMessage(text)
	default:
		return errdefs.ErrInternal.WithMessage(text)
	}
}
