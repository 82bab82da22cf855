package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sync/errgroup"

	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// ExecRequest says what to run beside a container's process.
type ExecRequest struct {
	Config     container.ExecCreateRequest
	DetachKeys []byte
}

// ExecState is what is known of an exec session.
type ExecState struct {
	ID          string
	ContainerID string
	Config      container.ExecCreateRequest
	Started     bool
	Running     bool
	Pid         int
	ExitCode    *int // nil: not ended yet
}

// execKeep is how long an ended session can still be inspected.
const execKeep = 5 * time.Minute

// execs are the exec sessions that this controller knows: those that it made, and those of an earlier one that it was
// asked for (see adopt).
type execs struct {
	mu   sync.Mutex
	byID map[string]*execution
}

// execution is one session; fields below mu of execs are guarded by it.
type execution struct {
	ExecState
	keys  []byte
	vm    vsphere.Ref
	ended time.Time // zero: not yet
}

func newExecs() *execs { return &execs{byID: map[string]*execution{}} }

// add keeps a session and forgets those that ended long ago.
func (x *execs) add(e *execution) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for id, old := range x.byID {
		if !old.ended.IsZero() && time.Since(old.ended) > execKeep {
			delete(x.byID, id)
		}
	}
	x.byID[e.ID] = e
}

// observe ends the sessions of a machine that is off or gone. They can be asked for a while longer: the client of one
// that went with its container wants its exit code.
func (x *execs) observe(ev vsphere.VMEvent) {
	if ev.After != nil && ev.After.PowerState == vsphere.PoweredOn {
		return
	}
	vm := cmp.Or(ev.After, ev.Before).Ref
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range x.byID {
		if e.vm == vm {
			e.end(guest.ExitKilled)
		}
	}
}

// end notes how the process ended; the caller holds mu.
func (e *execution) end(code int) {
	if e.ended.IsZero() {
		e.Running, e.ExitCode, e.ended = false, &code, time.Now()
	}
}

func (x *execs) update(e *execution, change func(*execution)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	change(e)
}

func (x *execs) get(id string) (*execution, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e, ok := x.byID[id]
	return e, ok
}

// ExecIDs lists a container's exec sessions that have not ended.
func (s *Service) ExecIDs(c Container) []string { return s.execs.of(c.ID) }

// of lists the sessions of a container that have not ended.
func (x *execs) of(containerID string) []string {
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

// ExecCreate prepares a session in a running container.
func (s *Service) ExecCreate(ref string, req ExecRequest) (id string, err error) {
	if len(req.Config.Cmd) == 0 {
		return "", invalid("No exec command specified")
	}
	c, err := s.running(ref)
	if err != nil {
		return "", err
	}
	e := &execution{keys: req.DetachKeys, vm: c.VM.Ref, ExecState: ExecState{ID: newExecID(c), ContainerID: c.ID, Config: req.Config}}
	s.execs.add(e)
	return e.ID, nil
}

// ExecInspect tells of a session.
func (s *Service) ExecInspect(ctx context.Context, id string) (ExecState, error) {
	e, err := s.exec(ctx, id)
	if err != nil {
		return ExecState{}, err
	}
	s.execs.mu.Lock()
	defer s.execs.mu.Unlock()
	return e.ExecState, nil
}

// ExecResize sets the window size of a session's terminal.
func (s *Service) ExecResize(ctx context.Context, id string, rows, columns uint32) error {
	e, err := s.exec(ctx, id)
	if err != nil {
		return err
	}
	c, err := s.running(e.ContainerID)
	if err != nil {
		return err
	}
	return guest.Failed(s.calls.Resize(ctx, c.VM, e.ID, rows, columns), "cannot resize the terminal of %s", &c)
}

// Execution is a session that runs and whose streams are open.
type Execution struct {
	s              *Service
	e              *execution
	stdout, stderr *link.OutputStream // nil: not wanted
	stdin          *link.InputStream
	done           chan struct{} // closed when the process has ended, or its streams are lost
}

// ExecStart starts a session's process. With attach its streams are opened and Run must be called, else its output is
// dropped. consoleSize is the terminal's first size, rows and columns, or nil. The error of a command that cannot be
// started is of class errdefs.ErrInvalidArgument and has the phrases that Docker's clients look for; the session has
// the exit code for it.
func (s *Service) ExecStart(ctx context.Context, id string, attach bool, consoleSize *[2]uint) (*Execution, error) {
	e, err := s.exec(ctx, id)
	if err != nil {
		return nil, err
	}
	c, err := s.running(e.ContainerID)
	if err != nil {
		return nil, err
	}
	started := false
	s.execs.update(e, func(e *execution) { started, e.Started = e.Started, true })
	if started {
		return nil, errdefs.ErrConflict.WithMessage("exec command " + id + " is already running")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.times.Start) // a start is not left half done
	defer cancel()
	x, err := s.execStart(ctx, c, e, attach, consoleSize)
	if err != nil {
		s.execs.update(e, func(e *execution) { e.end(guest.ExitNotExecutable) })
	}
	return x, err
}

func (s *Service) execStart(ctx context.Context, c Container, e *execution, attach bool, consoleSize *[2]uint) (*Execution, error) {
	l, err := s.host.Link(ctx, e.vm)
	if err != nil {
		return nil, err
	}
	conf := &e.Config
	res, err := l.Tether().Exec(ctx, &tetherv1.ExecRequest{
		Session: e.ID, Process: execProcess(&c, conf, attach, consoleSize),
		AttachStdout: attach && conf.AttachStdout, AttachStderr: attach && conf.AttachStderr,
	})
	if err != nil {
		return nil, guest.Failed(err, "cannot exec in %s", &c)
	}
	if f := res.GetFailure(); f != nil {
		s.execs.update(e, func(e *execution) { e.end(max(guest.ExitCode(f), guest.ExitNotExecutable)) })
		return nil, guest.StartError(guest.ExecPrefix, f, conf.Cmd)
	}
	s.execs.update(e, func(e *execution) { e.Running, e.Pid = true, int(res.GetPid()) })
	x := &Execution{s: s, e: e, done: make(chan struct{})}
	go x.await(l)
	if attach {
		if err := x.open(ctx, l); err != nil {
			x.Close()
			return nil, guest.Failed(err, "cannot attach to the exec session")
		}
	}
	return x, nil
}

// execProcess is the process of a session: the container's environment under the request's, its user and directory
// where the request has none.
func execProcess(c *Container, conf *container.ExecCreateRequest, attach bool, consoleSize *[2]uint) *tetherv1.Process {
	env := environment(c.Config.Hostname, conf.Tty, c.Config.Env)
	p := &tetherv1.Process{
		Args: conf.Cmd, Env: override(env, conf.Env),
		User: conf.User, Groups: c.HostConfig.GroupAdd, Cwd: conf.WorkingDir,
		Tty: conf.Tty, Stdin: attach && conf.AttachStdin, Rlimits: rlimits(c.HostConfig.Ulimits),
	}
	fill(&p.User, c.Config.User)
	fill(&p.Cwd, c.Config.WorkingDir)
	if consoleSize == nil {
		consoleSize = conf.ConsoleSize
	}
	if consoleSize != nil && consoleSize[0] > 0 && consoleSize[1] > 0 {
		p.Window = &tetherv1.Window{Rows: uint32(consoleSize[0]), Columns: uint32(consoleSize[1])}
	}
	return p
}

// open opens the wanted streams side by side: each takes a round trip.
func (x *Execution) open(ctx context.Context, l *link.Client) error {
	conf := &x.e.Config
	var streams errgroup.Group
	if conf.AttachStdout {
		streams.Go(func() (err error) {
			x.stdout, err = l.OpenOutput(ctx, x.e.ID, link.StreamStdout, 0)
			return err
		})
	}
	if conf.AttachStderr && !conf.Tty {
		streams.Go(func() (err error) {
			x.stderr, err = l.OpenOutput(ctx, x.e.ID, link.StreamStderr, 0)
			return err
		})
	}
	if conf.AttachStdin {
		streams.Go(func() (err error) {
			x.stdin, err = l.OpenInput(ctx, x.e.ID)
			return err
		})
	}
	return streams.Wait()
}

// Close lets go of the streams; the process goes on.
func (x *Execution) Close() {
	if x.stdout != nil {
		x.stdout.Close()
	}
	if x.stderr != nil {
		x.stderr.Close()
	}
	if x.stdin != nil {
		x.stdin.Close()
	}
}

// Run carries bytes until the process has ended and its output is written, the client detaches, or ctx ends. It may
// return while a read of stdin is still waiting.
func (x *Execution) Run(ctx context.Context, stdin io.Reader, out Sink) error {
	defer x.Close()
	stop := context.AfterFunc(ctx, x.Close)
	defer stop()
	if x.stdin != nil {
		go func() {
			if errors.Is(x.feed(stdin), errDetached) {
				x.Close()
			}
		}()
	}
	var copies errgroup.Group
	copies.Go(func() error { return x.copy(x.stdout, link.StreamStdout, out) })
	copies.Go(func() error { return x.copy(x.stderr, link.StreamStderr, out) })
	err := copies.Wait()
	if err != nil && !errors.Is(err, link.ErrLost) {
		return err // the client is gone or has detached
	}
	select {
	case <-x.done: // the exit code is there before the client sees the end of the stream and asks for it
	case <-ctx.Done():
	}
	return err
}

func (x *Execution) feed(stdin io.Reader) error {
	keys := x.e.keys
	if !x.e.Config.Tty {
		keys = nil
	}
	if _, err := io.Copy(x.stdin, newDetachReader(stdin, keys)); err != nil {
		return err
	}
	return x.stdin.CloseWrite()
}

// copyBuffer is the size of reads from a session's output, in bytes: a record's.
const copyBuffer = link.MaxRecord

func (x *Execution) copy(from *link.OutputStream, stream link.RecordStream, out Sink) error {
	if from == nil {
		return nil
	}
	if n := from.Dropped(); n > 0 {
		return fmt.Errorf("%d bytes of %s were dropped", n, stream)
	}
	buf := make([]byte, copyBuffer)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if werr := out.Write(stream, buf[:n]); werr != nil {
				return werr
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
