package relay

import (
	"context"
	"errors"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

const (
	// measureTime bounds the measuring of one machine, which takes milliseconds: a supervisor that hangs is not to hide the others.
	measureTime = 5 * time.Second
	// measuredAtOnce is how many machines are measured at the same time: it is work of the CPUs that they share.
	measuredAtOnce = 4
)

// serveMemory measures all machines, oldest first. One that cannot be measured, or ends meanwhile, is left out.
func (r *Relay) serveMemory(w http.ResponseWriter, req *http.Request) error {
	vms := r.inventory.List()
	measured := make([]*hostapi.MachineMemory, len(vms))
	var g errgroup.Group
	g.SetLimit(measuredAtOnce)
	for i, v := range vms {
		g.Go(func() error {
			measured[i] = r.measure(req.Context(), v)
			return nil
		})
	}
	_ = g.Wait() // none has an error
	machines := []hostapi.MachineMemory{}
	for _, m := range measured {
		if m != nil {
			machines = append(machines, *m)
		}
	}
	answer(w, http.StatusOK, hostapi.Machines{Machines: machines})
	return nil
}

// measure returns nil for a VM that is off, or that cannot be measured.
func (r *Relay) measure(ctx context.Context, v *vm.VM) *hostapi.MachineMemory {
	m, err := r.inventory.Machine(v.Ref)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, measureTime)
	defer cancel()
	memory, err := m.Memory(ctx)
	if err == nil {
		return &hostapi.MachineMemory{VM: v.Ref, Memory: memory}
	}
	if now, ok := r.inventory.Get(v.Ref); ok && now.Power == vm.PoweredOn && !errors.Is(err, context.Canceled) {
		r.log.Warn("cannot measure the memory of a machine", "vm", v.Name, "err", err)
	}
	return nil
}
