package process

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Errors of a session.
var (
	// ErrNoStdin says that the process was started without a stdin.
	ErrNoStdin = errors.New("the process has no stdin: it was started without one")
	// ErrNoTerminal says that the process was started without a terminal.
	ErrNoTerminal = errors.New("the process has no terminal")
	// ErrEnded says that the process has ended.
	ErrEnded = errors.New("the process has ended")
)

// Session is a process, its streams, and how it ended. Its methods may be called by several goroutines.
type Session struct {
	// ID is the session's name on the link.
	ID string
	// PID is the process's number in the tether's own PID namespace.
	PID int
	// Started is when the process ran.
	Started time.Time
	// Stdout and Stderr hold its output; with a terminal all of it is in Stdout.
	Stdout, Stderr *Ring

	reaper *Reaper
	child  *child
	pumps  []*pump
	input  stdin
	tty    *os.File // nil without a terminal
	oom    *oomWatch
	first  bool // PID 1 of the container
	done   chan struct{}
	exit   *tetherv1.Exit // set before done is closed

	mu    sync.Mutex
	holds []*RingReader // kept for readers that were promised
}

func newSession(id string, c *child, r *Reaper, s *stdio, oom *oomWatch, first bool) *Session {
	session := &Session{
		ID: id, PID: c.pid, Started: time.Now(), reaper: r, child: c, input: s.input, oom: oom, first: first, done: make(chan struct{}),
	}
	out := startPump(s.output, s.errors == nil)
	session.pumps, session.Stdout = []*pump{out}, out.ring
	if s.errors == nil {
		session.tty, session.Stderr = s.output, NewRing(0)
		session.Stderr.End()
		return session
	}
	errs := startPump(s.errors, false)
	session.pumps, session.Stderr = append(session.pumps, errs), errs.ring
	return session
}

// watch waits for the process's end and for the last of its output.
func (s *Session) watch() {
	ws := <-s.child.events
	exit := &tetherv1.Exit{Code: int32(ws.ExitStatus()), UnixNano: time.Now().UnixNano()}
	if ws.Signaled() {
		exit.Signal = int32(ws.Signal())
		exit.Code = 128 + exit.Signal // what a shell reports
	}
	// As with Docker, a container is out of memory when any process of it was killed for that.
	exit.OomKilled = (s.first || ws.Signal() == unix.SIGKILL) && s.oom.killed()
	for _, p := range s.pumps {
		p.finish()
	}
	for _, p := range s.pumps {
		<-p.done
	}
	s.exit = exit
	close(s.done)
}

// Done is closed when the process has ended and its output is complete.
func (s *Session) Done() <-chan struct{} { return s.done }

func (s *Session) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// info is how the session stands.
func (s *Session) info() *tetherv1.SessionInfo {
	info := &tetherv1.SessionInfo{Session: s.ID, Pid: int32(s.PID), StartedUnixNano: s.Started.UnixNano()}
	if s.ended() {
		info.Exit = s.exit
	}
	return info
}

// Wait returns how the process ended.
func (s *Session) Wait(ctx context.Context) (*tetherv1.Exit, error) {
	select {
	case <-s.done:
		return s.exit, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Signal sends a signal to the process. As PID 1 of its namespace the main process ignores those that it does not
// handle, except SIGKILL and SIGSTOP (pid_namespaces(7)).
func (s *Session) Signal(sig unix.Signal) error {
	err := s.reaper.signal(s.child, sig)
	if errors.Is(err, unix.ESRCH) {
		return ErrEnded
	}
	return err
}

// Resize sets the size of the process's terminal.
func (s *Session) Resize(w *tetherv1.Window) error {
	if s.tty == nil {
		return ErrNoTerminal
	}
	err := control(s.tty, func(fd int) error { return setWindow(fd, w) })
	if errors.Is(err, os.ErrClosed) {
		return ErrEnded
	}
	return err
}

// Input is the process's stdin, for one writer. Closing it means the end of file for the process. A Write that waits
// ends with ctx.
func (s *Session) Input(ctx context.Context) (io.WriteCloser, error) {
	if s.input == nil {
		return nil, ErrNoStdin
	}
	return &input{ctx: ctx, stdin: s.input}, nil
}

// promise makes the process wait with more output than the rings hold for readers that will come, at most for a time.
func (s *Session) promise(wait time.Duration, rings ...*Ring) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range rings {
		hold, err := r.Reader(0, true)
		if err != nil {
			continue // cannot be: offset 0 exists
		}
		s.holds = append(s.holds, hold)
		time.AfterFunc(wait, func() { _ = hold.Close() })
	}
}

// Output reads a stream from offset; a negative one means the oldest byte kept. The first reader of a stream for which
// one was promised holds it until it is closed.
func (s *Session) Output(ring *Ring, offset int64) (*RingReader, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, hold := range s.holds {
		if hold.ring == ring {
			s.holds = append(s.holds[:i], s.holds[i+1:]...)
			defer hold.Close()
			return ring.Reader(offset, true)
		}
	}
	return ring.Reader(offset, false)
}

func (s *Session) memory() int { return s.Stdout.Memory() + s.Stderr.Memory() }

// Stop asks the process to end by sig and, unless grace is negative, kills it when it has not ended by then.
func (s *Session) Stop(sig unix.Signal, grace time.Duration) error {
	if err := s.Signal(sig); err != nil {
		return err
	}
	if grace < 0 {
		return nil
	}
	kill := time.AfterFunc(grace, func() { _ = s.Signal(unix.SIGKILL) })
	go func() {
		<-s.done
		kill.Stop()
	}()
	return nil
}
