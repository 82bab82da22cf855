package exec

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"golang.org/x/sync/errgroup"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/controller/internal/stream"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Execution is a session that runs and whose streams are open.
type Execution struct {
	s              *Service
	e              *session
	stdout, stderr *link.OutputStream // nil: not wanted
	stdin          *link.InputStream
	done           chan struct{} // closed when the process has ended

	mu     sync.Mutex // of the outputs, which a new link replaces
	closed bool
}

// Start starts a session's process. With attach its streams are opened and Run must be called, else its output is
// dropped. consoleSize is the terminal's first size, rows and columns, or nil. The error of a command that cannot be
// started is of class errdefs.ErrInvalidArgument and has the phrases that Docker's clients look for; the session has
// the exit code for it.
func (s *Service) Start(ctx context.Context, id string, attach bool, consoleSize *[2]uint) (*Execution, error) {
	e, c, err := s.find(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := s.sessions.begin(e); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.startTime) // a start is not left half done
	defer cancel()
	x, err := s.start(ctx, c, e, attach, consoleSize)
	if err != nil {
		s.sessions.end(e, guest.ExitNotExecutable)
	}
	return x, err
}

// Startable says why Start would refuse a session now, if it would.
func (s *Service) Startable(ctx context.Context, id string) error {
	e, _, err := s.find(ctx, id)
	if err != nil {
		return err
	}
	return s.sessions.startable(e)
}

// find finds a session and its container, which runs.
func (s *Service) find(ctx context.Context, id string) (*session, ctr.Container, error) {
	e, err := s.get(ctx, id)
	if err != nil {
		return nil, ctr.Container{}, err
	}
	c, err := s.containers.GetRunning(e.ContainerID)
	if err == nil {
		err = c.NotPaused(c.ID, "exec")
	}
	if err != nil {
		return nil, c, err
	}
	if e.isOver(c.VM) { // the event that says so may be still to come
		s.sessions.end(e, guest.ExitKilled)
	}
	return e, c, nil
}

func (s *Service) start(ctx context.Context, c ctr.Container, e *session, attach bool, consoleSize *[2]uint) (*Execution, error) {
	l, err := s.host.Link(ctx, e.vm)
	if err != nil {
		return nil, err
	}
	conf := &e.Config
	s.tell(&c, e, events.ActionExecStart) // as Docker, also of a command that cannot be started
	res, err := l.Tether().Exec(ctx, &tetherv1.ExecRequest{
		Session: e.ID, Process: process(&c, conf, attach, consoleSize),
		AttachStdout: attach && conf.AttachStdout, AttachStderr: attach && conf.AttachStderr,
	})
	if err != nil {
		return nil, guest.Failed(err, "cannot exec in %s", &c)
	}
	if f := res.GetFailure(); f != nil {
		s.sessions.end(e, max(guest.ExitCode(f), guest.ExitNotExecutable))
		return nil, guest.StartError(guest.ExecPrefix, f, conf.Cmd)
	}
	s.sessions.runs(e, int(res.GetPid()))
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

// process is what a session runs: with the container's environment under the request's, and its user and directory where the
// request has none.
func process(c *ctr.Container, conf *container.ExecCreateRequest, attach bool, consoleSize *[2]uint) *tetherv1.Process {
	p := &tetherv1.Process{
		Args: conf.Cmd, Env: c.Environment(conf.Tty, conf.Env),
		User: cmp.Or(conf.User, c.Config.User), Groups: c.HostConfig.GroupAdd, Cwd: cmp.Or(conf.WorkingDir, c.Config.WorkingDir),
		Tty: conf.Tty, Stdin: attach && conf.AttachStdin,
	}
	ctr.Restrict(p, &c.HostConfig, conf.Privileged)
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

// Close closes the streams; the process goes on.
func (x *Execution) Close() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.closed = true
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
func (x *Execution) Run(ctx context.Context, stdin io.Reader, out stream.Sink) error {
	defer x.Close()
	stop := context.AfterFunc(ctx, x.Close)
	defer stop()
	lost := make(chan error, 1)
	if x.stdin != nil {
		go func() {
			if <-x.stdin.Done(); x.stdin.Lost() && x.relink(link.ErrLost) != nil {
				lost <- stream.ErrInputLost
				x.Close()
			}
		}()
		go func() {
			switch err := x.feed(stdin); {
			case errors.Is(err, stream.ErrDetached):
				x.Close()
				if c, err := x.s.containers.GetRunning(x.e.ContainerID); err == nil {
					x.s.containers.Tell(&c, events.ActionExecDetach, map[string]string{"execID": x.e.ID})
				}
			case err != nil:
				_, _ = io.Copy(io.Discard, stdin) // the process takes no more; the client's end is still to be noticed
			}
		}()
	}
	var copies errgroup.Group
	copies.Go(func() error { return x.copy(ctx, &x.stdout, link.StreamStdout, out) })
	copies.Go(func() error { return x.copy(ctx, &x.stderr, link.StreamStderr, out) })
	err := copies.Wait()
	select {
	case err := <-lost:
		return err
	default:
	}
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
	if _, err := io.Copy(x.stdin, stream.NewDetachReader(stdin, keys)); err != nil {
		return err
	}
	return x.stdin.CloseWrite()
}

// copyBuffer is the size of reads from a session's output, in bytes: a record's.
const copyBuffer = link.MaxRecord

// copy copies an output to its end. Over a new link it goes on with the byte that comes next.
func (x *Execution) copy(ctx context.Context, from **link.OutputStream, which link.RecordStream, out stream.Sink) error {
	x.mu.Lock()
	s := *from
	x.mu.Unlock()
	if s == nil {
		return nil
	}
	for {
		err := copyStream(s, which, out)
		if !errors.Is(err, link.ErrLost) || ctx.Err() != nil {
			return err
		}
		var failed error
		if s, failed = x.reopen(ctx, from, which, s.Next(), err); failed != nil {
			return failed
		}
	}
}

// reopen opens an output from an offset over a new link. Its error wraps link.ErrLost when there is none: the machine has ended.
func (x *Execution) reopen(
	ctx context.Context, from **link.OutputStream, which link.RecordStream, next int64, lost error,
) (*link.OutputStream, error) {
	for {
		l := x.relink(lost)
		if l == nil {
			return nil, lost
		}
		s, err := l.OpenOutput(ctx, x.e.ID, which, next)
		if errors.Is(err, link.ErrLost) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s broke off, as the host's daemon was away: %w", which, err)
		}
		x.mu.Lock()
		*from = s
		closed := x.closed
		x.mu.Unlock()
		if closed {
			s.Close()
		}
		return s, nil
	}
}

func copyStream(from *link.OutputStream, which link.RecordStream, out stream.Sink) error {
	if n := from.Dropped(); n > 0 {
		return fmt.Errorf("%d bytes of %s were dropped", n, which)
	}
	buf := make([]byte, copyBuffer)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if werr := out.Write(which, buf[:n]); werr != nil {
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
