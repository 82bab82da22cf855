package container

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/controller/internal/ident"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// A session outlives the controller that made it: its process runs on in the guest, its output is not held back for a
// reader that will not come, and the next controller finds it by its ID. What the tether does not keep is lost: the
// command line, and a session that was made but not started.

// execIDPrefix is how many digits of its container's ID an exec session's ID begins with. Together with as many random ones
// it is as long as Docker's.
const execIDPrefix = 32

func newExecID(c Container) string { return c.ID[:execIDPrefix] + ident.New()[execIDPrefix:] }

// adoptWait is how long an adoption waits to learn that a session's process has ended already. The tether answers that
// at once; of a process that runs it says nothing.
const adoptWait = 250 * time.Millisecond

// exec finds a session, also one that an earlier controller started.
func (s *Service) exec(ctx context.Context, id string) (*execution, error) {
	if e, ok := s.execs.get(id); ok {
		return e, nil
	}
	if e, ok := s.adopt(ctx, id); ok {
		return e, nil
	}
	return nil, errdefs.ErrNotFound.WithMessage("No such exec instance: " + id)
}

// adopt asks the tether of the container in question for a session.
func (s *Service) adopt(ctx context.Context, id string) (*execution, bool) {
	all := s.All()
	at := slices.IndexFunc(all, func(c Container) bool {
		return c.Running() && len(id) == len(c.ID) && strings.HasPrefix(id, c.ID[:execIDPrefix]) && id != c.ID
	})
	if at < 0 {
		return nil, false
	}
	c := all[at]
	ctx, cancel := context.WithTimeout(ctx, s.times.Link)
	defer cancel()
	l, err := s.host.Link(ctx, c.VM.Ref)
	if err != nil {
		return nil, false
	}
	info, err := l.Tether().Info(ctx, &tetherv1.InfoRequest{})
	if err != nil || !slices.Contains(info.GetSessions(), id) {
		return nil, false
	}
	e := &execution{vm: c.VM.Ref, ExecState: ExecState{ID: id, ContainerID: c.ID, Started: true, Running: true}}
	x := &Execution{s: s, e: e, done: make(chan struct{})}
	go x.await(l)
	select {
	case <-x.done:
	case <-time.After(adoptWait):
	}
	s.execs.add(e)
	return e, true
}

// await notes the process's end. When the link is lost, as by a restart of the host's daemon, it goes on over a new one.
func (x *Execution) await(l *link.Client) {
	closeDone := sync.OnceFunc(func() { close(x.done) })
	defer closeDone()
	for {
		res, err := l.Tether().Wait(context.Background(), &tetherv1.WaitRequest{Session: x.e.ID})
		if err == nil {
			x.s.execs.update(x.e, func(e *execution) { e.end(int(res.GetExit().GetCode())) })
			return
		}
		if l = x.relink(err); l == nil {
			return
		}
		closeDone() // the streams went with the first link
	}
}

// relinkPause is the pause between attempts to reach a tether again.
const relinkPause = 100 * time.Millisecond

// relink reaches the session's tether again after an error, for at most Timeouts.Link. When it cannot it notes the
// session's end and returns nil.
func (x *Execution) relink(err error) *link.Client {
	ctx, cancel := context.WithTimeout(context.Background(), x.s.times.Link)
	defer cancel()
	code := guest.ExitUnknown
	for guest.Lost(err) {
		if now, ok := x.s.host.Get(x.e.ContainerID); !ok || isOff(now) {
			code = guest.ExitKilled
			break
		}
		select {
		case <-time.After(relinkPause):
		case <-ctx.Done():
			err = ctx.Err()
			continue
		}
		var l *link.Client
		if l, err = x.s.host.Link(ctx, x.e.vm); err == nil {
			return l
		}
	}
	x.s.execs.update(x.e, func(e *execution) { e.end(code) })
	return nil
}
