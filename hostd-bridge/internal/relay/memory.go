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

// usage is a line of the answer to GET /cvm/memory.
type usage struct {
	VM string `json:"vm"` // moref value
	hostapi.Memory
}

// serveMemory measures all machines, oldest first. One that cannot be measured, or ends meanwhile, is left out.
func (r *Relay) serveMemory(w http.ResponseWriter, req *http.Request) error {
	vms := r.inventory.List()
	measured := make([]*usage, len(vms))
	var g errgroup.Group
	g.SetLimit(measuredAtOnce)
	for i, v := range vms {
		g.Go(func() error {
			measured[i] = r.measure(req.Context(), v)
			return nil
		})
	}
	_ = g.Wait() // none has an error
	machines := []usage{}
	for _, u := range measured {
		if u != nil {
			machines = append(machines, *u)
		}
	}
	return answer(w, map[string][]usage{"machines": machines})
}

// measure returns nil for a VM that is off.
func (r *Relay) measure(ctx context.Context, v *vm.VM) *usage {
	m, err := r.inventory.Machine(v.Ref)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, measureTime)
	defer cancel()
	memory, err := m.Memory(ctx)
	if err == nil {
		return &usage{VM: v.Ref, Memory: memory}
	}
	if now, ok := r.inventory.Get(v.Ref); ok && now.Power == vm.PoweredOn && !errors.Is(err, context.Canceled) {
		r.log.Warn("cannot measure the memory of a machine", "vm", v.Name, "err", err)
	}
	return nil
}
