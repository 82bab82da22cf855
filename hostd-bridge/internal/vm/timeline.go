package vm

import (
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// maxMarks bounds the marks of a run: a machine has about ten.
const maxMarks = 64

func begun() []hostapi.Mark { return []hostapi.Mark{{Name: hostapi.MarkBegun, At: time.Now().UTC()}} }

// marked takes a mark of the machine's. It wakes no one: clients see the timeline with the next change, or when they ask,
// and a start has about ten marks, each of which would cost every watching client an answer on the way to the first byte.
func (i *Inventory) marked(e *entry, m hostapi.Mark) {
	e.write.Lock()
	defer e.write.Unlock()
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(e.vm.Timeline) >= maxMarks {
		return
	}
	next := e.vm.clone()
	next.Timeline = append(next.Timeline, m)
	e.vm = next
}
