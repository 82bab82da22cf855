package linktest

import (
	"context"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Pause implements link.Handler: nothing can be started while the fake is paused, and who OnPause named is told.
func (f *Tether) Pause(_ context.Context, req *tetherv1.PauseRequest) (*tetherv1.PauseResponse, error) {
	f.setPaused(!req.GetResume())
	return &tetherv1.PauseResponse{}, nil
}

func (f *Tether) setPaused(paused bool) {
	f.mu.Lock()
	changed, tell := f.paused != paused, f.onPause
	f.paused = paused
	f.mu.Unlock()
	if changed && tell != nil {
		tell(paused)
	}
}

// OnPause has tell called when the fake is paused, and when it goes on.
func (f *Tether) OnPause(tell func(paused bool)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onPause = tell
}

// errPaused is how a tether refuses to start something in a container that is paused.
func errPaused() error { return link.Refuse(errdefs.ErrFailedPrecondition, "the container is paused") }

// Stats implements link.Handler: counters grow with each call, unless OnStats says otherwise.
func (f *Tether) Stats(ctx context.Context, _ *tetherv1.StatsRequest) (*tetherv1.StatsResponse, error) {
	f.mu.Lock()
	read := f.onStats
	f.counted++
	n := f.counted
	f.mu.Unlock()
	if read != nil {
		return read(ctx)
	}
	return &tetherv1.StatsResponse{
		UnixNano: time.Now().UnixNano(),
		Cpu: &tetherv1.StatsResponse_Cpu{
			Usage: n * 500_000, User: n * 300_000, System: n * 200_000, Online: 1, MachineTotal: n * 1_000_000, MachineIdle: n * 500_000,
		},
		Memory: &tetherv1.StatsResponse_Memory{
			Usage: 100 << 20, Limit: 200 << 20, MachineTotal: 200 << 20, MachineAvailable: 50 << 20, Stat: map[string]uint64{"inactive_file": 40 << 20},
		},
		Networks: []*tetherv1.NetworkStats{{Name: "eth0", RxBytes: n * 1000, TxBytes: n * 2000}},
		Blocks:   []*tetherv1.BlockStats{{Major: 8, ReadBytes: n * 4096, WriteBytes: n * 8192, Reads: n, Writes: n}},
		Pids:     3, PidsLimit: 1000,
	}, nil
}

// OnStats has read answer Stats.
func (f *Tether) OnStats(read func(context.Context) (*tetherv1.StatsResponse, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onStats = read
}

// Update implements link.Handler: it keeps the request.
func (f *Tether) Update(_ context.Context, req *tetherv1.UpdateRequest) (*tetherv1.UpdateResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.updates = append(f.updates, req)
	return &tetherv1.UpdateResponse{}, nil
}

// Updates are the Update requests so far.
func (f *Tether) Updates() []*tetherv1.UpdateRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.updates)
}
