package guest

import (
	"context"
	"time"

	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Host is what calls need of a vSphere host: *vsphere.Client.
type Host interface {
	Get(name string) (vsphere.VM, bool)
	Link(ctx context.Context, vm vsphere.Ref) (*link.Client, error)
}

// Caller makes single calls to tethers.
type Caller struct {
	Host   Host
	Within time.Duration // in which a tether must answer
}

// Call makes one call to a VM's tether.
func (c Caller) Call(ctx context.Context, vm vsphere.Ref, call func(context.Context, tetherv1.TetherService) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.Within)
	defer cancel()
	l, err := c.Host.Link(ctx, vm)
	if err != nil {
		return err
	}
	return call(ctx, l.Tether())
}

// Tell is Call for what the machine's end makes needless: no error is one when the machine is off by then, or gone.
func (c Caller) Tell(ctx context.Context, vm vsphere.VM, call func(context.Context, tetherv1.TetherService) error) error {
	err := c.Call(ctx, vm.Ref, call)
	if now, ok := c.Host.Get(vm.Name); err != nil && (!ok || now.PowerState != vsphere.PoweredOn) {
		return nil
	}
	return err
}

// Resize sets the window size of a session's terminal.
func (c Caller) Resize(ctx context.Context, vm vsphere.VM, session string, rows, columns uint32) error {
	return c.Tell(ctx, vm, func(ctx context.Context, t tetherv1.TetherService) error {
		_, err := t.Resize(ctx, &tetherv1.ResizeRequest{Session: session, Window: &tetherv1.Window{Rows: rows, Columns: columns}})
		return err
	})
}
