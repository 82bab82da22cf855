package files

import (
	"context"
	"io"
	"log/slog"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/guest"
)

// Host is what this package needs of a vSphere host: *vsphere.Client.
type Host interface {
	guest.Host
}

// Containers finds containers: *container.Service.
type Containers interface {
	Get(ref string) (ctr.Container, error)
}

// Service is the files of one host's containers. Its methods may be called by several goroutines. Errors have the class (package errdefs)
// and the words that Docker's clients expect.
type Service struct {
	host       Host
	containers Containers
	log        *slog.Logger
}

// New returns the files of a host's containers.
func New(host Host, containers Containers, log *slog.Logger) *Service {
	return &Service{host: host, containers: containers, log: log}
}

// Changes are what of a container's root differs from its image, in the order of their paths.
func (s *Service) Changes(_ context.Context, ref string) ([]container.FilesystemChange, error) {
	if _, err := s.containers.Get(ref); err != nil {
		return nil, err
	}
	return nil, errdefs.ErrNotImplemented.WithMessage("docker diff is not supported yet")
}

// Layer is the same as an uncompressed tar: an OCI layer over the container's image, with whiteouts. Its reader returns io.EOF when that is
// complete, and another error when it was cut off anywhere. The caller closes it, also in the middle, which ends the work.
func (s *Service) Layer(_ context.Context, ref string) (io.ReadCloser, error) {
	if _, err := s.containers.Get(ref); err != nil {
		return nil, err
	}
	return nil, errdefs.ErrNotImplemented.WithMessage("the changes of a container cannot be read yet")
}
