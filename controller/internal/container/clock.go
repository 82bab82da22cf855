package container

import (
	"sync"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
)

// clock keeps the API's own marks of each container's present start. They are written to the VM with the next operation
// that changes it anyway, and never by one of their own: what a controller that dies had not written is lost.
type clock struct {
	mu   sync.Mutex
	byID map[string][]record.Mark
}

func newClock() *clock { return &clock{byID: map[string][]record.Mark{}} }

func (c *clock) get(id string) []record.Mark {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.byID[id]
}

// set replaces the marks of a container.
func (c *clock) set(id string, marks []record.Mark) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byID[id] = marks
}

// SetMarks replaces the API's marks of a container's start.
func (s *Service) SetMarks(id string, marks []record.Mark) { s.clock.set(id, marks) }

// observe forgets containers that are gone.
func (c *clock) observe(e vsphere.VMEvent) {
	if e.After != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.byID, e.Before.Name)
}
