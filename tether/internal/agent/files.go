package agent

import (
	"context"
	"errors"
	"io"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/internal/archive"
	"github.com/containervm/containervm/tether/internal/unpack"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// StatPath says what is at a path of the container.
func (a *Agent) StatPath(_ context.Context, r *tetherv1.StatPathRequest) (*tetherv1.StatPathResponse, error) {
	if a.Files == nil {
		return nil, errNoContainer()
	}
	resp, err := a.Files.Stat(r.Path)
	return resp, filesError(err)
}

// Export sends files by the download of the request's id. It ends with its download: a host that wants no more closes that.
func (a *Agent) Export(ctx context.Context, r *tetherv1.ExportRequest) (resp *tetherv1.ExportResponse, err error) {
	if a.Files == nil {
		return nil, errNoContainer()
	}
	if !link.ValidSession(r.Download) {
		return nil, link.Refuse(errdefs.ErrInvalidArgument, "malformed download id %.80q", r.Download)
	}
	err = a.downloads.take(ctx, r.Download, func(ctx context.Context, to io.Writer) (err error) {
		resp, err = a.Files.Export(ctx, r, to)
		return filesError(err)
	})
	return resp, err
}

// Download offers the host's download to Export.
func (a *Agent) Download(ctx context.Context, id string, w io.Writer) error {
	if a.Files == nil {
		return errNoContainer()
	}
	return a.downloads.offer(ctx, id, w)
}

// Import extracts what comes by the upload of the request's id.
func (a *Agent) Import(ctx context.Context, r *tetherv1.ImportRequest) (resp *tetherv1.ImportResponse, err error) {
	if a.Files == nil {
		return nil, errNoContainer()
	}
	if !link.ValidSession(r.Upload) {
		return nil, link.Refuse(errdefs.ErrInvalidArgument, "malformed upload id %.80q", r.Upload)
	}
	err = a.uploads.take(ctx, r.Upload, func(ctx context.Context, from io.Reader) (err error) {
		resp, err = a.Files.Import(ctx, r, from)
		return filesError(err)
	})
	return resp, err
}

// filesError is an error of the container's files as a refusal.
func filesError(err error) error {
	var replaced *unpack.ReplaceError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &replaced):
		return link.Refuse(errdefs.ErrInvalidArgument, "%v", replaced)
	case errors.Is(err, archive.ErrReadOnly):
		return link.Refuse(errdefs.ErrPermissionDenied, "%v", err)
	case errors.Is(err, archive.ErrNotFound):
		return link.Refuse(errdefs.ErrNotFound, "%v", err)
	case errors.Is(err, archive.ErrBusy):
		return link.Refuse(errdefs.ErrResourceExhausted, "%v", err)
	case errors.Is(err, archive.ErrInvalid), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG):
		return link.Refuse(errdefs.ErrInvalidArgument, "%v", err)
	default:
		return link.Refuse(unpackClass(err), "%v", err)
	}
}
