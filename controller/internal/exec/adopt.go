package exec

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/controller/internal/ident"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// A session outlives the controller that made it: its process runs on in the guest, its output is not held back for a
// reader that will not come, and the next controller finds it by its ID. What the tether does not keep is lost: the
// command line, and a session that was made but not started.

// idPrefix is how many digits of its container's ID an exec session's ID begins with. Together with as many random ones
// it is as long as Docker's.
const idPrefix = 32

func newID(containerID string) string { return containerID[:idPrefix] + ident.New()[idPrefix:] }

// adopt asks the tether of the container in question how a session stands.
func (s *Service) adopt(ctx context.Context, id string) (*session, bool) {
	all := s.containers.All()
	at := slices.IndexFunc(all, func(c container.Container) bool {
		return c.Running() && len(id) == len(c.ID) && strings.HasPrefix(id, c.ID[:idPrefix]) && id != c.ID
	})
	if at < 0 {
		return nil, false
	}
	c := all[at]
	ctx, cancel := context.WithTimeout(ctx, s.calls.Within)
	defer cancel()
	l, err := s.host.Link(ctx, c.VM.Ref)
	if err != nil {
		return nil, false
	}
	info, err := l.Tether().Info(ctx, &tetherv1.InfoRequest{})
	if err != nil || !slices.Contains(info.GetSessions(), id) {
		return nil, false
	}
	e := &session{vm: c.VM.Ref, run: c.Run, State: State{ID: id, ContainerID: c.ID, Started: true, Running: true}}
	e.learn(info.GetSessionInfos())
	runs := e.Running
	e, added := s.sessions.add(e)
	if added && runs {
		go (&Execution{s: s, e: e, done: make(chan struct{})}).await(l)
	}
	return e, true
}

// learn takes over what a tether says of a session that nobody else knows yet. A tether of an earlier version does not say how its
// sessions stand: one that has ended is told to run until the answer to Wait is there.
func (e *session) learn(infos []*tetherv1.SessionInfo) {
	for _, i := range infos {
		if i.GetSession() != e.ID {
			continue
		}
		e.Pid = int(i.GetPid())
		if exit := i.GetExit(); exit != nil {
			e.endLocked(int(exit.GetCode()))
		}
	}
}

// await waits for the process's end. When the link is lost, as by a restart of the host's daemon, it goes on over a new one.
func (x *Execution) await(l *link.Client) {
	defer close(x.done)
	for {
		res, err := l.Tether().Wait(context.Background(), &tetherv1.WaitRequest{Session: x.e.ID})
		if err == nil {
			code := int(res.GetExit().GetCode())
			x.s.sessions.end(x.e, code)
			if c, err := x.s.containers.GetRunning(x.e.ContainerID); err == nil { // the container's own end says enough
				x.s.containers.Tell(&c, events.ActionExecDie, map[string]string{"execID": x.e.ID, "exitCode": strconv.Itoa(code)})
			}
			return
		}
		if l = x.relink(err); l == nil {
			return
		}
	}
}

// relinkPause is the pause between attempts to reach a tether again.
const relinkPause = 100 * time.Millisecond

// relink reaches the session's tether again after an error, for at most Timeouts.Link. When it cannot, the session
// has ended, and it returns nil.
func (x *Execution) relink(err error) *link.Client {
	ctx, cancel := context.WithTimeout(context.Background(), x.s.calls.Within)
	defer cancel()
	code := guest.ExitUnknown
	for guest.Lost(err) {
		if now, ok := x.s.host.Get(x.e.ContainerID); !ok || x.e.isOver(now) {
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
	x.s.sessions.end(x.e, code)
	return nil
}
