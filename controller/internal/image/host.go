package image

import (
	"context"
	"io"

	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
)

// Host is what the store needs of a vSphere host: *vsphere.Client.
type Host interface {
	Machines
	Files
}

// Machines makes, drives and removes the unpacker VMs. To power off a VM that is off is no error.
type Machines interface {
	CreateVM(ctx context.Context, spec vsphere.VMSpec) (vsphere.Ref, error)
	PowerOn(ctx context.Context, vm vsphere.Ref) error
	PowerOff(ctx context.Context, vm vsphere.Ref) error
	Destroy(ctx context.Context, vm vsphere.Ref) error
	AttachDelta(ctx context.Context, vm vsphere.Ref, path, parent string) error
	DetachDisk(ctx context.Context, vm vsphere.Ref) error
	Link(ctx context.Context, vm vsphere.Ref) (*link.Client, error)
	Wait(ctx context.Context, vm vsphere.Ref, until func(vsphere.VM) bool) (vsphere.VM, error)
	VMs() []vsphere.VM
	ConsoleTail(ctx context.Context, vm string) string
	Boot() vsphere.BootFiles
}

// Files reads and writes the datastore; paths are relative to its root. To delete a file that is gone, or make a
// directory that exists, is no error. Upload replaces a file at once or not at all.
type Files interface {
	Upload(ctx context.Context, path string, r io.Reader) error
	Download(ctx context.Context, path string) (io.ReadCloser, error)
	MoveFile(ctx context.Context, from, to string) error
	DeleteFile(ctx context.Context, path string) error
	Stat(ctx context.Context, path string) (vsphere.FileInfo, error)
	MakeDirectory(ctx context.Context, path string) error
	ListFiles(ctx context.Context, dir string) ([]vsphere.FileInfo, error)
}
