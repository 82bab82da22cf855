package supervisor

import (
	"slices"
	"sync"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// timeline collects the points of a machine's start.
type timeline struct {
	mu      sync.Mutex
	marks   []hostapi.Mark
	changed chan struct{} // closed at the next mark
}

func newTimeline() *timeline { return &timeline{changed: make(chan struct{})} }

// mark adds a point: now.
func (t *timeline) mark(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.marks = append(t.marks, hostapi.Mark{Name: name, At: time.Now().UTC()})
	close(t.changed)
	t.changed = make(chan struct{})
}

// since returns the marks after the first n, and a channel that is closed at the next one.
func (t *timeline) since(n int) ([]hostapi.Mark, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.marks[n:]), t.changed
}
