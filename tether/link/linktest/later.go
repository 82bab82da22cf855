package linktest

import (
	"context"
	"io"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Pause implements link.Handler: it is refused.
func (f *Tether) Pause(context.Context, *tetherv1.PauseRequest) (*tetherv1.PauseResponse, error) {
	return nil, link.Refuse(errdefs.ErrNotImplemented, "this tether does not know Pause")
}

// Stats implements link.Handler: it is refused.
func (f *Tether) Stats(context.Context, *tetherv1.StatsRequest) (*tetherv1.StatsResponse, error) {
	return nil, link.Refuse(errdefs.ErrNotImplemented, "this tether does not know Stats")
}

// Update implements link.Handler: it is refused.
func (f *Tether) Update(context.Context, *tetherv1.UpdateRequest) (*tetherv1.UpdateResponse, error) {
	return nil, link.Refuse(errdefs.ErrNotImplemented, "this tether does not know Update")
}

// StatPath implements link.Handler: it is refused.
func (f *Tether) StatPath(context.Context, *tetherv1.StatPathRequest) (*tetherv1.StatPathResponse, error) {
	return nil, link.Refuse(errdefs.ErrNotImplemented, "this tether does not know StatPath")
}

// Export implements link.Handler: it is refused.
func (f *Tether) Export(context.Context, *tetherv1.ExportRequest) (*tetherv1.ExportResponse, error) {
	return nil, link.Refuse(errdefs.ErrNotImplemented, "this tether does not know Export")
}

// Import implements link.Handler: it is refused.
func (f *Tether) Import(context.Context, *tetherv1.ImportRequest) (*tetherv1.ImportResponse, error) {
	return nil, link.Refuse(errdefs.ErrNotImplemented, "this tether does not know Import")
}

// Download implements link.Handler: it is refused.
func (f *Tether) Download(context.Context, string, io.Writer) error {
	return link.Refuse(errdefs.ErrNotImplemented, "this tether does not know Export")
}
