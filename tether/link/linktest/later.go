package linktest

import (
	"context"

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
