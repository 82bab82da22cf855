package vim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// faultError is an error that is told to clients as a particular vim25 fault.
type faultError struct {
	fault types.BaseMethodFault
	text  string
}

func (e *faultError) Error() string { return e.text }

func fault(f types.BaseMethodFault, format string, args ...any) error {
	return &faultError{fault: f, text: fmt.Sprintf(format, args...)}
}

func notFound(ref types.ManagedObjectReference) error {
	return fault(&types.ManagedObjectNotFound{Obj: ref},
		"The object %q has already been deleted or has not been completely created", ref)
}

func invalidArgument(property, format string, args ...any) error {
	return fault(&types.InvalidArgument{InvalidProperty: property}, format, args...)
}

// faultOf returns the vim25 fault that tells of an error.
func faultOf(err error) types.BaseMethodFault {
	for _, class := range []func(error) types.BaseMethodFault{ownFault, vmFault, fileFault} {
		if f := class(err); f != nil {
			return f
		}
	}
	if errors.Is(err, context.Canceled) {
		return &types.RequestCanceled{}
	}
	return &types.SystemError{Reason: err.Error()}
}

func ownFault(err error) types.BaseMethodFault {
	var own *faultError
	if errors.As(err, &own) {
		return own.fault
	}
	return nil
}

func vmFault(err error) types.BaseMethodFault {
	var (
		missing   *vm.NotFoundError
		state     *vm.StateError
		frozen    *vm.FrozenError
		duplicate *vm.DuplicateNameError
		name      *vm.InvalidNameError
		argument  *vm.ArgumentError
		device    *vm.DeviceError
		memory    *vm.MemoryError
		inUse     *vm.InUseError
		network   *vm.NetworkError
		port      *vm.PortError
		locked    *vm.LockedError
	)
	switch {
	case errors.As(err, &missing):
		return &types.ManagedObjectNotFound{Obj: refOf(missing.Ref)}
	case errors.As(err, &state):
		return &types.InvalidPowerState{
			RequestedState: types.VirtualMachinePowerState(state.Required),
			ExistingState:  types.VirtualMachinePowerState(state.Current),
		}
	case errors.As(err, &frozen):
		return &types.InvalidState{}
	case errors.As(err, &duplicate):
		return &types.DuplicateName{Name: duplicate.Name, Object: refOf(duplicate.Ref)}
	case errors.As(err, &name):
		return &types.InvalidName{Name: name.Name}
	case errors.As(err, &argument):
		return &types.InvalidArgument{InvalidProperty: argument.Property}
	case errors.As(err, &device):
		return &types.InvalidDeviceSpec{}
	case errors.As(err, &network):
		return &types.InvalidDeviceBacking{}
	case errors.As(err, &port):
		return &types.ResourceInUse{Type: "port", Name: port.Port()}
	case errors.As(err, &memory):
		return &types.InsufficientMemoryResourcesFault{
			Unreserved: max(memory.Available, 0) << 20, Requested: memory.Requested << 20, // bytes
		}
	case errors.As(err, &inUse):
		return &types.ResourceInUse{Name: inUse.Name}
	case errors.As(err, &locked):
		return &types.FileLocked{FileFault: types.FileFault{File: locked.Path}}
	}
	return nil
}

func fileFault(err error) types.BaseMethodFault {
	var file *vm.FileError
	path := ""
	var pathErr *fs.PathError
	switch {
	case errors.As(err, &file):
		path = file.Path
	case errors.As(err, &pathErr):
		path = datastore.FormatPath(pathErr.Path)
	}
	switch {
	case errors.Is(err, datastore.ErrInvalidPath):
		return &types.InvalidDatastorePath{DatastorePath: path}
	case errors.Is(err, fs.ErrNotExist):
		return &types.FileNotFound{FileFault: types.FileFault{File: path}}
	case errors.Is(err, fs.ErrExist), errors.Is(err, vm.ErrDiskExists):
		return &types.FileAlreadyExists{FileFault: types.FileFault{File: path}}
	case file != nil || pathErr != nil:
		return &types.CannotAccessFile{FileFault: types.FileFault{File: path}}
	}
	return nil
}

// localized is a fault as it stands in a task's info.
func localized(err error) *types.LocalizedMethodFault {
	return &types.LocalizedMethodFault{Fault: faultOf(err), LocalizedMessage: err.Error()}
}
