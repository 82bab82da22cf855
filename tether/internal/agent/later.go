package agent

import (
	"context"

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
