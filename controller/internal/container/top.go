package container

import (
	"context"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/internal/printable"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Top lists a container's processes in the columns that ps would show for psArgs. The list is the tether's: the image needs no ps.
func (s *Service) Top(ctx context.Context, ref, psArgs string) (container.TopResponse, error) {
	var top container.TopResponse
	columns, err := psColumns(psArgs)
	if err != nil {
		return top, err
	}
	c, err := s.GetRunning(ref)
	if err != nil {
		return top, err
	}
	var res *tetherv1.ProcessesResponse
	if err := s.calls.Call(ctx, c.VM.Ref, func(ctx context.Context, t tetherv1.TetherService) (err error) {
		res, err = t.Processes(ctx, &tetherv1.ProcessesRequest{})
		return err
	}); err != nil {
		return top, guest.Failed(err, "cannot list the processes of %s", &c)
	}
	for _, col := range columns {
		top.Titles = append(top.Titles, col.title)
	}
	m := psMachine{now: time.Unix(0, res.GetUnixNano()), memory: res.GetMachineMemory()}
	if res.GetUnixNano() == 0 { // a tether of an earlier version does not say
		m.now = time.Now()
	}
	top.Processes = [][]string{}
	for _, p := range res.GetProcesses() {
		var line []string
		for _, col := range columns {
			line = append(line, printable.Text(col.show(p, m)))
		}
		top.Processes = append(top.Processes, line)
	}
	s.Tell(&c, events.ActionTop, nil)
	return top, nil
}
