package link

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Refusal is a tether's answer that it does not do what it was asked: a class for programs and a text for people. Its class is
// one of package errdefs, or a context's error; errors.Is and the functions of errdefs find it. On the wire it is a gRPC status.
type Refusal struct {
	class error
	text  string
}

// Refuse makes a refusal. A class that has no status code is sent as Unknown.
func Refuse(class error, format string, args ...any) *Refusal {
	return &Refusal{class: class, text: fmt.Sprintf(format, args...)}
}

func (r *Refusal) Error() string { return r.text }

// Is reports whether target is the class.
func (r *Refusal) Is(target error) bool { return errors.Is(r.class, target) }

// GRPCStatus is the refusal as it is sent; ttrpc and package status ask for it.
func (r *Refusal) GRPCStatus() *status.Status { return status.New(codeOf(r.class), r.text) }

// refusalOf is a status that came from a peer.
func refusalOf(code codes.Code, text string) *Refusal {
	return &Refusal{class: classOf(code), text: text}
}

// classes are the status codes that both sides tell apart (google.golang.org/grpc/codes), with what they mean in Go.
func classes() []struct {
	code  codes.Code
	class error
} {
	return []struct {
		code  codes.Code
		class error
	}{
		{codes.Canceled, context.Canceled},
		{codes.InvalidArgument, errdefs.ErrInvalidArgument},
		{codes.DeadlineExceeded, context.DeadlineExceeded},
		{codes.NotFound, errdefs.ErrNotFound},
		{codes.AlreadyExists, errdefs.ErrAlreadyExists},
		{codes.PermissionDenied, errdefs.ErrPermissionDenied},
		{codes.ResourceExhausted, errdefs.ErrResourceExhausted},
		{codes.FailedPrecondition, errdefs.ErrFailedPrecondition},
		{codes.Aborted, errdefs.ErrAborted},
		{codes.OutOfRange, errdefs.ErrOutOfRange},
		{codes.Unimplemented, errdefs.ErrNotImplemented},
		{codes.Internal, errdefs.ErrInternal},
		{codes.Unavailable, errdefs.ErrUnavailable},
		{codes.DataLoss, errdefs.ErrDataLoss},
		{codes.Unauthenticated, errdefs.ErrUnauthenticated},
	}
}

func classOf(code codes.Code) error {
	for _, c := range classes() {
		if c.code == code {
			return c.class
		}
	}
	return errdefs.ErrUnknown
}

func codeOf(class error) codes.Code {
	for _, c := range classes() {
		if errors.Is(class, c.class) {
			return c.code
		}
	}
	return codes.Unknown
}
