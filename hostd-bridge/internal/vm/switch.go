package vm

import (
	"context"

	"github.com/containervm/containervm/hostd-bridge/internal/netswitch"
)

// Switch is a running switch; package netswitch has the real one.
type Switch interface {
	// Apply makes the switch as c says. What is the same as before goes on untouched. What concerns one endpoint is in the Result.
	Apply(ctx context.Context, c netswitch.Config) (netswitch.Result, error)
	Stats(ctx context.Context) (netswitch.Stats, error)
	PID() int
	// Done is closed when the switch has ended, by whatever, and by Close.
	Done() <-chan struct{}
	// Stop ends the switch and removes its directory. Close it nevertheless.
	Stop(ctx context.Context) error
	// Close forgets the switch, which goes on.
	Close() error
}

// Switches starts and finds switches.
type Switches interface {
	// StartSwitch starts a switch in a directory. name is its network's, for people. It outlives the caller.
	StartSwitch(ctx context.Context, dir, name string) (Switch, error)
	// AdoptSwitch finds the switch that lives in a directory; nil without an error: none does, and nothing is left of one.
	AdoptSwitch(ctx context.Context, dir string) (Switch, error)
}
