package process

import (
	"errors"
	"fmt"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Error says why a process never ran. Its text is what a user of Docker's API expects to read.
type Error struct {
	Reason tetherv1.Failure_Reason
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns what went wrong.
func (e *Error) Unwrap() error { return e.Err }

func failure(reason tetherv1.Failure_Reason, format string, args ...any) error {
	return &Error{Reason: reason, Err: fmt.Errorf(format, args...)}
}

// Failure is err as the link's message: the reason of an *Error, else INTERNAL.
func Failure(err error) *tetherv1.Failure {
	f := &tetherv1.Failure{Reason: tetherv1.Failure_INTERNAL, Message: err.Error()}
	var e *Error
	if errors.As(err, &e) {
		f.Reason = e.Reason
	}
	return f
}
