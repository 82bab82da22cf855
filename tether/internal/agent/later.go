package agent

import (
	"context"
	"io"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Pause is not there yet.
func (a *Agent) Pause(context.Context, *tetherv1.PauseRequest) (*tetherv1.PauseResponse, error) {
	return nil, link.Refuse(errdefs.ErrNotImplemented, "this tether does not know Pause")
}

// Stats is not there yet.
func (a *Agent) Stats(context.Context, *tetherv1.StatsRequest) (*tetherv1.StatsResponse, error) {
	return nil, link.Refuse(errdefs.ErrNotImplemented, "this tether does not know Stats")
}

// Update is not there yet.
func (a *Agent) Update(context.Context, *tetherv1.UpdateRequest) (*tetherv1.UpdateResponse, error) {
	return nil, link.Refuse(errdefs.ErrNotImplemented, "this tether does not know Update")
}

// StatPath is not there yet.
func (a *Agent) StatPath(context.Context, *tetherv1.StatPathRequest) (*tetherv1.StatPathResponse, error) {
	return nil, link.Refuse(errdefs.ErrNotImplemented, "this tether does not know StatPath")
}

// Export is not there yet.
func (a *Agent) Export(context.Context, *tetherv1.ExportRequest) (*tetherv1.ExportResponse, error) {
	return nil, link.Refuse(errdefs.ErrNotImplemented, "this tether does not know Export")
}

// Import is not there yet.
func (a *Agent) Import(context.Context, *tetherv1.ImportRequest) (*tetherv1.ImportResponse, error) {
	return nil, link.Refuse(errdefs.ErrNotImplemented, "this tether does not know Import")
}

// Download is not there yet.
func (a *Agent) Download(context.Context, string, io.Writer) error {
	return link.Refuse(errdefs.ErrNotImplemented, "this tether does not know Export")
}
