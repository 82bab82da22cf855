package vm

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// ErrNoDisk says that a machine has no disk at a unit.
var ErrNoDisk = errors.New("there is no such disk in the machine")

// ErrDiskExists says that a disk file to be made is already there.
var ErrDiskExists = errors.New("the file exists")

// NotFoundError says that no object has the reference Ref.
type NotFoundError struct{ Ref string }

func (e *NotFoundError) Error() string { return fmt.Sprintf("no object %s", e.Ref) }

// StateError says that an operation needs another power state than the VM is in.
type StateError struct {
	Name     string
	Current  PowerState
	Required PowerState
}

func (e *StateError) Error() string {
	return fmt.Sprintf("VM %s is %s and must be %s", e.Name, e.Current, e.Required)
}

// FrozenError says that a VM stands still at its fork point and cannot do what was asked of it.
type FrozenError struct{ Name string }

func (e *FrozenError) Error() string {
	return fmt.Sprintf("VM %s is frozen at its fork point: it can be cloned, powered off and destroyed, and nothing else", e.Name)
}

// DuplicateNameError says that another object, Ref, has the name already.
type DuplicateNameError struct{ Name, Ref string }

func (e *DuplicateNameError) Error() string {
	return fmt.Sprintf("the name %q is taken by %s", e.Name, e.Ref)
}

// InvalidNameError says that a name cannot be one.
type InvalidNameError struct{ Name string }

func (e *InvalidNameError) Error() string {
	return fmt.Sprintf("invalid name %q: 1 to 80 characters without / and control characters", e.Name)
}

// ArgumentError says what is wrong with a property of a request.
type ArgumentError struct{ Property, Why string }

func (e *ArgumentError) Error() string { return fmt.Sprintf("invalid %s: %s", e.Property, e.Why) }

// DeviceError says that a change of a device cannot be done.
type DeviceError struct{ Why string }

func (e *DeviceError) Error() string { return "invalid device: " + e.Why }

// NetworkError says that a card's network is not there.
type NetworkError struct{ Name string }

func (e *NetworkError) Error() string { return fmt.Sprintf("no network %q", e.Name) }

// PortError says that a port of the host is taken. Its text is Docker's, and goes to clients as it is.
type PortError struct{ Publication hostapi.Publication }

func (e *PortError) Error() string {
	p := e.Publication
	if p.HostPortEnd > p.HostPort {
		return fmt.Sprintf("Bind for %v:%d-%d failed: all ports are allocated", p.HostIP, p.HostPort, p.HostPortEnd)
	}
	return fmt.Sprintf("Bind for %v:%d failed: port is already allocated", p.HostIP, p.HostPort) // also of IPv6 without brackets
}

// Port is the port that is taken, with its protocol: "0.0.0.0:8080/tcp".
func (e *PortError) Port() string {
	return netip.AddrPortFrom(e.Publication.HostIP, e.Publication.HostPort).String() + "/" + e.Publication.Protocol
}

// MemoryError says that there is not enough memory, in MiB.
type MemoryError struct {
	Where                string
	Requested, Available int64
}

func (e *MemoryError) Error() string {
	return fmt.Sprintf("not enough memory: %d MiB requested, %d MiB available in %s", e.Requested, e.Available, e.Where)
}

// InUseError says why an object cannot be taken away.
type InUseError struct{ Name, Why string }

func (e *InUseError) Error() string { return fmt.Sprintf("%s is in use: %s", e.Name, e.Why) }

// LockedError says that the machine of the VM Name has a disk open in a way that keeps others from it: of those who have a disk open at
// the same time none may write.
type LockedError struct {
	Path, Name string // Path is a vSphere datastore path
	Writes     bool   // VM Name writes to it; else it reads, and the other wanted to write
}

func (e *LockedError) Error() string {
	does := "has it open read-only, and this VM would write to it"
	if e.Writes {
		does = "writes to it"
	}
	return fmt.Sprintf("disk %s is locked: VM %s %s", e.Path, e.Name, does)
}

// FileError says that a file a VM needs is not usable; it wraps the cause (fs.ErrNotExist, ErrDiskExists ...).
type FileError struct {
	Path string // as a vSphere datastore path
	Err  error
}

func (e *FileError) Error() string { return fmt.Sprintf("file %s: %v", e.Path, e.Err) }

// Unwrap returns the cause.
func (e *FileError) Unwrap() error { return e.Err }
