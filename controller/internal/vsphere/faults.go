package vsphere

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// failure is an error of the host together with its class from package errdefs.
type failure struct {
	text  string
	class error
	cause error
}

func (f *failure) Error() string   { return f.text }
func (f *failure) Unwrap() []error { return []error{f.class, f.cause} }

// failed says what could not be done and why, with the class of the fault; nil stays nil.
func failed(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	what := fmt.Sprintf(format, args...)
	class := classOf(err)
	if class == nil {
		return fmt.Errorf("cannot %s: %w", what, err)
	}
	return &failure{text: fmt.Sprintf("cannot %s: %s", what, reason(err)), class: class, cause: err}
}

// classOf maps the faults of the vSphere API that callers tell apart; nil: none of them.
func classOf(err error) error {
	classes := []struct {
		fault types.BaseMethodFault
		class error
	}{
		{&types.ManagedObjectNotFound{}, errdefs.ErrNotFound},
		{&types.FileNotFound{}, errdefs.ErrNotFound},
		{&types.NotFound{}, errdefs.ErrNotFound},
		{&types.DuplicateName{}, errdefs.ErrAlreadyExists},
		{&types.FileAlreadyExists{}, errdefs.ErrAlreadyExists},
		{&types.AlreadyExists{}, errdefs.ErrAlreadyExists},
		{&types.InvalidPowerState{}, errdefs.ErrFailedPrecondition},
		{&types.ResourceInUse{}, errdefs.ErrConflict},
		{&types.FileLocked{}, errdefs.ErrConflict},
		{&types.InvalidName{}, errdefs.ErrInvalidArgument},
		{&types.InvalidArgument{}, errdefs.ErrInvalidArgument},
		{&types.InvalidDeviceSpec{}, errdefs.ErrInvalidArgument},
		{&types.InsufficientMemoryResourcesFault{}, errdefs.ErrResourceExhausted},
		{&types.InsufficientResourcesFault{}, errdefs.ErrResourceExhausted},
		{&types.NoPermission{}, errdefs.ErrPermissionDenied},
		{&types.InvalidLogin{}, errdefs.ErrUnauthenticated},
		{&types.NotSupported{}, errdefs.ErrNotImplemented},
	}
	for _, c := range classes {
		if fault.Is(err, c.fault) {
			return c.class
		}
	}
	return nil
}

// reason is the host's own sentence about a fault, without the prefixes that govmomi adds.
func reason(err error) string {
	var failed task.Error
	if errors.As(err, &failed) && failed.LocalizedMethodFault != nil && failed.LocalizedMessage != "" {
		return failed.LocalizedMessage
	}
	if soap.IsSoapFault(err) && soap.ToSoapFault(err).String != "" {
		return soap.ToSoapFault(err).String
	}
	return err.Error()
}

// InUse returns the host's own sentence about what an operation wants that another machine has, a port or a disk, if that is why
// it failed.
func InUse(err error) (why string, inUse bool) {
	if !fault.Is(err, &types.ResourceInUse{}) && !fault.Is(err, &types.FileLocked{}) {
		return "", false
	}
	var f *failure
	if errors.As(err, &f) {
		err = f.cause
	}
	return reason(err), true
}

// PortTaken returns the host's own sentence about a port that an operation publishes and that someone has, if that is why it failed.
func PortTaken(err error) (why string, taken bool) {
	if !fault.Is(err, &types.ResourceInUse{}) {
		return "", false
	}
	return InUse(err)
}
