package exec

import (
	"context"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/controller/internal/vsphere"
)

// Containers finds containers: *container.Service.
type Containers interface {
	All() []ctr.Container
	GetRunning(ref string) (ctr.Container, error)
	Tell(c *ctr.Container, action events.Action, more map[string]string)
}

// Host is what sessions need of a vSphere host: *vsphere.Client.
type Host interface {
	guest.Host
	Subscribe(ctx context.Context) <-chan vsphere.VMEvent
}

// Service is the exec sessions of one host's containers. Its methods may be called by several goroutines. Errors have the class
// (package errdefs) and the words that Docker's clients expect.
type Service struct {
	containers Containers
	host       Host
	calls      guest.Caller
	startTime  time.Duration // in which a process must start
	sessions   *sessions
}

// New returns the sessions of a host's containers. Run must run for sessions to end with their machines.
func New(host Host, containers Containers, times ctr.Timeouts) *Service {
	return &Service{
		containers: containers, host: host, calls: guest.Caller{Host: host, Within: times.Link}, startTime: times.Start, sessions: newSessions(),
	}
}

// Run ends sessions with their machines, until ctx ends.
func (s *Service) Run(ctx context.Context) {
	for e := range s.host.Subscribe(ctx) {
		s.sessions.observe(e)
	}
}

// IDs lists a container's sessions that have not ended.
func (s *Service) IDs(containerID string) []string { return s.sessions.of(containerID) }

// Request says what to run beside a container's process.
type Request struct {
	Config     container.ExecCreateRequest
	DetachKeys []byte
}

// Create prepares a session in a running container.
func (s *Service) Create(ref string, req Request) (id string, err error) {
	if len(req.Config.Cmd) == 0 {
		return "", errdefs.ErrInvalidArgument.WithMessage("No exec command specified")
	}
	c, err := s.containers.GetRunning(ref)
	if err == nil {
		err = c.NotPaused(ref, "exec")
	}
	if err != nil {
		return "", err
	}
	e, _ := s.sessions.add(&session{keys: req.DetachKeys, vm: c.VM.Ref, run: c.Run, State: State{ID: newID(c.ID), ContainerID: c.ID, Config: req.Config}})
	s.tell(&c, e, events.ActionExecCreate)
	return e.ID, nil
}

// tell tells of a session with its command in the action, as Docker does.
func (s *Service) tell(c *ctr.Container, e *session, action events.Action) {
	action += events.Action(": " + e.Config.Cmd[0] + " " + strings.Join(e.Config.Cmd[1:], " "))
	s.containers.Tell(c, action, map[string]string{"execID": e.ID})
}

// Inspect tells of a session.
func (s *Service) Inspect(ctx context.Context, id string) (State, error) {
	e, err := s.get(ctx, id)
	if err != nil {
		return State{}, err
	}
	return s.sessions.state(e), nil
}

// Resize sets the window size of a session's terminal.
func (s *Service) Resize(ctx context.Context, id string, rows, columns uint32) error {
	e, err := s.get(ctx, id)
	if err != nil {
		return err
	}
	c, err := s.containers.GetRunning(e.ContainerID)
	if err != nil {
		return err
	}
	return guest.Failed(s.calls.Resize(ctx, c.VM, e.ID, rows, columns), "cannot resize the terminal of %s", &c)
}

// get finds a session, also one that an earlier controller started.
func (s *Service) get(ctx context.Context, id string) (*session, error) {
	if e, ok := s.sessions.get(id); ok {
		return e, nil
	}
	if e, ok := s.adopt(ctx, id); ok {
		return e, nil
	}
	return nil, errdefs.ErrNotFound.WithMessage("No such exec instance: " + id)
}
