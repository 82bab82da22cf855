package exec

import (
	"cmp"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// State is what is known of an exec session.
type State struct {
	ID          string
	ContainerID string
	Config      container.ExecCreateRequest // empty but for sessions that this controller made
	Started     bool
	Running     bool
	Pid         int
	ExitCode    *int // nil: not ended yet
}

// keep is how long an ended session can still be inspected.
const keep = 5 * time.Minute

// sessions are those that this controller knows.
type sessions struct {
	mu   sync.Mutex
	byID map[string]*session
}

// session is one of them. State and ended are guarded by mu of sessions.
type session struct {
	State
	keys  []byte // detach keys
	vm    vsphere.Ref
	run   hostapi.Run // of the machine that the process is in
	ended time.Time   // zero: not yet
}

func newSessions() *sessions { return &sessions{byID: map[string]*session{}} }

// add keeps a session unless there is one of its ID, returns the one that is kept, and forgets those that ended long ago.
func (x *sessions) add(e *session) (kept *session, added bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for id, old := range x.byID {
		if !old.ended.IsZero() && time.Since(old.ended) > keep {
			delete(x.byID, id)
		}
	}
	if old := x.byID[e.ID]; old != nil {
		return old, false
	}
	x.byID[e.ID] = e
	return e, true
}

// observe ends the sessions of a machine that is off or gone, or in a later run. They can be asked for a while longer: the client
// of one that ended with its container wants its exit code. Events come late: what one shows of an earlier run than a session's is
// past, and ends nothing.
func (x *sessions) observe(ev vsphere.VMEvent) {
	vm := cmp.Or(ev.After, ev.Before).Ref
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range x.byID {
		if e.vm == vm && (ev.After == nil || hostapi.RunOf(ev.After.Extra) >= e.run && e.isOver(*ev.After)) {
			e.endLocked(guest.ExitKilled)
		}
	}
}

// isOver reports whether the run that the process is in has ended.
func (e *session) isOver(vm vsphere.VM) bool {
	return vm.PowerState != vsphere.PoweredOn || hostapi.RunOf(vm.Extra) != e.run
}

// endLocked says how the process ended. The first word counts.
func (e *session) endLocked(code int) {
	if e.ended.IsZero() {
		e.Running, e.ExitCode, e.ended = false, &code, time.Now()
	}
}

func (x *sessions) end(e *session, code int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e.endLocked(code)
}

// begin says that a session's process is being started, or why it cannot be: it was already, or its run has ended.
func (x *sessions) begin(e *session) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := e.startableLocked(); err != nil {
		return err
	}
	e.Started = true
	return nil
}

func (x *sessions) startable(e *session) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return e.startableLocked()
}

// startableLocked says why a session's process cannot be started.
func (e *session) startableLocked() error {
	switch {
	case !e.ended.IsZero():
		return errdefs.ErrConflict.WithMessage("exec command " + e.ID + " has already run, or its container has ended")
	case e.Started:
		return errdefs.ErrConflict.WithMessage("exec command " + e.ID + " is already running")
	}
	return nil
}

// runs says that a session's process runs, unless its end is known already.
func (x *sessions) runs(e *session, pid int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e.Running, e.Pid = e.ended.IsZero(), pid
}

func (x *sessions) get(id string) (*session, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e, ok := x.byID[id]
	return e, ok
}

func (x *sessions) state(e *session) State {
	x.mu.Lock()
	defer x.mu.Unlock()
	return e.State
}

// of lists the sessions of a container that have not ended.
func (x *sessions) of(containerID string) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var ids []string
	for id, e := range x.byID {
		if e.ContainerID == containerID && e.ended.IsZero() {
			ids = append(ids, id)
		}
	}
	return ids
}
