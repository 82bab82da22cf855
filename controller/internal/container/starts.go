package container

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
)

// starts are the operations that bring containers up, change them while nobody may bring them up, or remove them. There is one at a time of a
// container. What is about to remove a container, or to stop one that its policy restarts, does not wait for a process to come up: it
// breaks that off.
type starts struct {
	mu       sync.Mutex
	busy     map[string]*operation // by container ID
	doomed   map[string]int        // removals that wait or are in flight, by container ID
	stopping map[string]int        // stops in flight, which are no operations: they keep nobody from anything
}

// operation is one of them.
type operation struct {
	x    *starts
	id   string
	kind kind
	// patience ends when someone breaks the operation off who takes its place, with errAbandoned as its cause. The operation stops waiting for
	// the guest then; what it has begun on the host it ends, so that nothing happens after it.
	patience context.Context
	breakOff context.CancelCauseFunc
	ended    chan struct{} // closed at its end
}

// kind says what an operation is, and which others give way to it.
type kind int

const (
	toStart   kind = iota // waits for others; it fails when the container is doomed
	toRestart             // likewise: by the policy
	toChange              // what a start goes by; waits for others
	toStop                // likewise, but that a restart by the policy gives way
	toRemove              // all give way; the container is doomed as long as it waits and lasts
)

// errAbandoned is the end of an operation that gave way, and of one that is not begun since the container is about to be removed. Users see it
// in the latter case alone, in Docker's words.
var errAbandoned = errdefs.ErrConflict.WithMessage("container is marked for removal and cannot be started")

func newStarts() *starts {
	return &starts{busy: map[string]*operation{}, doomed: map[string]int{}, stopping: map[string]int{}}
}

// AcquireStart waits until no start, change or removal of a container is in flight, and keeps others from it until release is called.
func (s *Service) AcquireStart(ctx context.Context, id string) (release func(), err error) {
	op, err := s.starts.acquire(ctx, id, toChange)
	if err != nil {
		return nil, err
	}
	return op.release, nil
}

// acquire waits for the container's turn. Its release must be called. The error of a container that is being removed is Docker's.
func (x *starts) acquire(ctx context.Context, id string, k kind) (*operation, error) {
	mine := &operation{x: x, id: id, kind: k, ended: make(chan struct{})}
	mine.patience, mine.breakOff = context.WithCancelCause(context.WithoutCancel(ctx))
	x.mu.Lock()
	defer x.mu.Unlock()
	if k == toRemove {
		x.doomed[id]++
	}
	for {
		if (k == toStart || k == toRestart) && x.doomed[id] > 0 {
			return nil, errAbandoned
		}
		other := x.busy[id]
		if other == nil {
			x.busy[id] = mine
			return mine, nil
		}
		if k == toRemove && other.kind != toRemove || k == toStop && other.kind == toRestart {
			other.breakOff(errAbandoned)
		}
		x.mu.Unlock()
		var err error
		select {
		case <-other.ended:
		case <-ctx.Done():
			err = fmt.Errorf("another operation on the container is in flight: %w", ctx.Err())
		}
		x.mu.Lock()
		if err != nil {
			if k == toRemove {
				x.undoomLocked(id)
			}
			return nil, err
		}
	}
}

func (o *operation) release() {
	o.x.mu.Lock()
	defer o.x.mu.Unlock()
	delete(o.x.busy, o.id)
	if o.kind == toRemove {
		o.x.undoomLocked(o.id)
	}
	o.breakOff(nil)
	close(o.ended)
}

// becomeRemoval says that the operation removes the container: nobody else is to wait for its turn to start it.
func (o *operation) becomeRemoval() {
	o.x.mu.Lock()
	defer o.x.mu.Unlock()
	if o.kind != toRemove {
		o.kind = toRemove
		o.x.doomed[o.id]++
	}
}

func (x *starts) undoomLocked(id string) {
	if x.doomed[id]--; x.doomed[id] == 0 {
		delete(x.doomed, id)
	}
}

// beginStop says that someone stops a container, until end is called, and reports whether a change of it is in flight, which may not know that.
func (x *starts) beginStop(id string) (changing bool, end func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.stopping[id]++
	other := x.busy[id]
	return other != nil && other.kind == toChange, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.stopping[id]--; x.stopping[id] == 0 {
			delete(x.stopping, id)
		}
	}
}

func (x *starts) isStopping(id string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.stopping[id] > 0
}

func (x *starts) isDoomed(id string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.doomed[id] > 0
}
