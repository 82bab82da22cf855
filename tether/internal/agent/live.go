package agent

import (
	"context"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/tether/internal/process"
	"github.com/containervm/containervm/tether/internal/stats"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Pause stops the container's processes where they are, or lets them go on.
func (a *Agent) Pause(ctx context.Context, r *tetherv1.PauseRequest) (*tetherv1.PauseResponse, error) {
	if a.Config.Pause == nil {
		return nil, errNoContainer()
	}
	defer a.beginAnswer()()
	return &tetherv1.PauseResponse{}, sessionError(a.Config.Pause(ctx, r.Resume))
}

// Stats says what the container uses.
func (a *Agent) Stats(context.Context, *tetherv1.StatsRequest) (*tetherv1.StatsResponse, error) {
	if a.Container == nil {
		return nil, errNoContainer()
	}
	r, err := stats.Source{Cgroup: a.Container.CgroupFile, Proc: "/proc"}.Read()
	if err != nil {
		return nil, link.Refuse(errdefs.ErrInternal, "%v", err)
	}
	return r, nil
}

// Update changes limits of the container.
func (a *Agent) Update(_ context.Context, r *tetherv1.UpdateRequest) (*tetherv1.UpdateResponse, error) {
	if a.Container == nil {
		return nil, errNoContainer()
	}
	err := a.Container.SetLimits(process.Limits{
		Pids: r.PidsLimit, CPUs: r.Cpus, MemoryLow: r.MemoryReservationBytes, CPUWeight: r.CpuWeight,
	})
	return &tetherv1.UpdateResponse{}, sessionError(err)
}
