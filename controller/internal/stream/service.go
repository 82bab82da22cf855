package stream

import (
	"context"
	"strconv"

	"github.com/moby/moby/api/types/events"

	"github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi/hostclient"
	"github.com/containervm/containervm/tether/link"
)

// Containers finds containers: *container.Service.
type Containers interface {
	Get(ref string) (container.Container, error)
	GetRunning(ref string) (container.Container, error)
	Tell(c *container.Container, action events.Action, more map[string]string)
}

// Host is what streams need of a vSphere host: *vsphere.Client.
type Host interface {
	guest.Host
	container.Waiter
	OpenLog(ctx context.Context, vm vsphere.Ref, from int64, follow, wait bool) (*hostclient.Log, error)
}

// Service is the streams of one host's containers. Its methods may be called by several goroutines. Errors have the class
// (package errdefs) and the words that Docker's clients expect.
type Service struct {
	host       Host
	containers Containers
	calls      guest.Caller
}

// New returns the streams of a host's containers.
func New(host Host, containers Containers, times container.Timeouts) *Service {
	return &Service{host: host, containers: containers, calls: guest.Caller{Host: host, Within: times.Link}}
}

// Resize sets the window size of a container's terminal.
func (s *Service) Resize(ctx context.Context, ref string, rows, columns uint32) error {
	c, err := s.containers.GetRunning(ref)
	if err != nil {
		return err
	}
	if err := s.calls.Resize(ctx, c.VM, link.MainSession, rows, columns); err != nil {
		return guest.Failed(err, "cannot resize the terminal of %s", &c)
	}
	s.containers.Tell(&c, events.ActionResize, map[string]string{"height": strconv.FormatUint(uint64(rows), 10), "width": strconv.FormatUint(uint64(columns), 10)})
	return nil
}
