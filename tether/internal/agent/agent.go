// Package agent serves the link: what hosts ask of a running tether.
package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/internal/archive"
	"github.com/containervm/containervm/tether/internal/process"
	"github.com/containervm/containervm/tether/internal/rawio"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// maxConns is how many link sessions are served at a time.
const maxConns = 64

// Config is what an Agent serves.
type Config struct {
	// Version is the tether's, for Info; Phase is the boot phase reached, Status that of the main process.
	Version string
	Phase   func() string
	Status  func() *tetherv1.Status
	// Container is nil in a machine that runs none.
	Container *process.Container
	// Files is nil in a machine that has no container's root.
	Files *archive.Files
	// Unpacker is nil in a machine that unpacks nothing.
	Unpacker *Unpacker
	// Stop begins to end the machine; grace is negative for none.
	Stop func(ctx context.Context, sig unix.Signal, grace time.Duration) error
	// Hold and Release are nil in a machine that cannot be forked.
	Hold    func(ctx context.Context, atPoint bool) error
	Release func(*tetherv1.Fork) error
	// Network does Configure; nil in a machine that runs no container.
	Network func(context.Context, *tetherv1.ConfigureRequest) (*tetherv1.ConfigureResponse, error)
	// Pause stops the container's processes, or lets them go on; nil in a machine that runs no container.
	Pause func(ctx context.Context, resume bool) error
	Log   *slog.Logger
}

// Agent implements link.Handler. Its methods may be called by several goroutines.
type Agent struct {
	Config

	mu      sync.Mutex
	pending int           // answers that hosts wait for
	none    chan struct{} // closed while pending is 0

	uploads   *meeting[io.Reader] // of Files
	downloads *meeting[io.Writer]
}

// New returns an agent.
func New(c Config) *Agent {
	none := make(chan struct{})
	close(none)
	return &Agent{Config: c, none: none, uploads: newMeeting[io.Reader]("upload"), downloads: newMeeting[io.Writer]("download")}
}

var _ link.Handler = (*Agent)(nil)

// Serve serves the connections of l, which it owns, until ctx ends; no goroutine of it is left then.
func (a *Agent) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	defer l.Close()
	slots := make(chan struct{}, maxConns)
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		slots <- struct{}{}
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return nil
		}
		if err != nil {
			return err
		}
		conns.Go(func() {
			defer func() { <-slots }()
			if err := link.Serve(ctx, rawio.NewConn(conn), a, a.Log); err != nil {
				a.Log.Warn("link session ended", "err", err)
			}
		})
	}
}

// Drain waits, at most until ctx ends, for answers that are being given.
func (a *Agent) Drain(ctx context.Context) {
	a.mu.Lock()
	none := a.none
	a.mu.Unlock()
	select {
	case <-none:
	case <-ctx.Done():
	}
}

// beginAnswer counts an answer until it is given. New ones may come while Drain waits, which a sync.WaitGroup does not allow.
func (a *Agent) beginAnswer() (given func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pending == 0 {
		a.none = make(chan struct{})
	}
	a.pending++
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.pending--; a.pending == 0 {
			close(a.none)
		}
	}
}

// Info says who answers.
func (a *Agent) Info(context.Context, *tetherv1.InfoRequest) (*tetherv1.InfoResponse, error) {
	r := &tetherv1.InfoResponse{Version: a.Version, Phase: a.Phase(), Status: a.Status(), UnixNano: time.Now().UnixNano()}
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		r.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	if a.Container != nil {
		r.SessionInfos = a.Container.Sessions()
		for _, s := range r.SessionInfos {
			r.Sessions = append(r.Sessions, s.Session)
		}
	}
	return r, nil
}

// Exec starts a process beside the main one.
func (a *Agent) Exec(_ context.Context, r *tetherv1.ExecRequest) (*tetherv1.ExecResponse, error) {
	if a.Container == nil {
		return nil, errNoContainer()
	}
	if !link.ValidSession(r.Session) {
		return nil, link.Refuse(errdefs.ErrInvalidArgument, "malformed session name %.80q", r.Session)
	}
	if r.Process == nil {
		return nil, link.Refuse(errdefs.ErrInvalidArgument, "no process given")
	}
	s, err := a.Container.Start(r.Session, r.Process, process.Options{HoldStdout: r.AttachStdout, HoldStderr: r.AttachStderr})
	switch {
	case err == nil:
		return &tetherv1.ExecResponse{Pid: int32(s.PID)}, nil
	case errors.Is(err, process.ErrExists):
		return nil, link.Refuse(errdefs.ErrAlreadyExists, "session %s exists", r.Session)
	case errors.Is(err, process.ErrEnded):
		return nil, link.Refuse(errdefs.ErrFailedPrecondition, "the container's process has ended")
	case errors.Is(err, process.ErrPaused):
		return nil, link.Refuse(errdefs.ErrFailedPrecondition, "the container is paused")
	case errors.Is(err, process.ErrForked):
		return nil, link.Refuse(errdefs.ErrUnavailable, "%v", err)
	case errors.Is(err, process.ErrBusy):
		return nil, link.Refuse(errdefs.ErrResourceExhausted, "%v", err)
	default:
		return &tetherv1.ExecResponse{Failure: process.Failure(err)}, nil
	}
}

// Wait waits for a session's end.
func (a *Agent) Wait(ctx context.Context, r *tetherv1.WaitRequest) (*tetherv1.WaitResponse, error) {
	s, err := a.session(r.Session)
	if err != nil {
		return nil, err
	}
	defer a.beginAnswer()()
	exit, err := s.Wait(ctx)
	if err != nil {
		return nil, link.Refuse(err, "%v", err)
	}
	return &tetherv1.WaitResponse{Exit: exit}, nil
}

// Signal signals a session's process, or all of the container's.
func (a *Agent) Signal(_ context.Context, r *tetherv1.SignalRequest) (*tetherv1.SignalResponse, error) {
	const lastSignal = 64 // SIGRTMAX
	if r.Signal < 1 || r.Signal > lastSignal {
		return nil, link.Refuse(errdefs.ErrInvalidArgument, "no such signal: %d", r.Signal)
	}
	s, err := a.session(r.Session)
	if err != nil {
		return nil, err
	}
	if r.All {
		err = a.Container.SignalAll(unix.Signal(r.Signal))
	} else {
		err = s.Signal(unix.Signal(r.Signal))
	}
	return &tetherv1.SignalResponse{}, sessionError(err)
}

// Resize sets the size of a session's terminal.
func (a *Agent) Resize(_ context.Context, r *tetherv1.ResizeRequest) (*tetherv1.ResizeResponse, error) {
	s, err := a.session(r.Session)
	if err != nil {
		return nil, err
	}
	if r.Window == nil {
		return nil, link.Refuse(errdefs.ErrInvalidArgument, "no window given")
	}
	return &tetherv1.ResizeResponse{}, sessionError(s.Resize(r.Window))
}

// Processes lists the container's processes.
func (a *Agent) Processes(context.Context, *tetherv1.ProcessesRequest) (*tetherv1.ProcessesResponse, error) {
	if a.Container == nil {
		return nil, errNoContainer()
	}
	list, err := a.Container.List()
	if err != nil {
		return nil, link.Refuse(errdefs.ErrInternal, "cannot list processes: %v", err)
	}
	r := &tetherv1.ProcessesResponse{Processes: list, UnixNano: time.Now().UnixNano()}
	var machine unix.Sysinfo_t
	if err := unix.Sysinfo(&machine); err == nil { // else shares of it cannot be told
		r.MachineMemory = machine.Totalram * uint64(machine.Unit)
	}
	return r, nil
}

// Stop ends the machine in order.
func (a *Agent) Stop(ctx context.Context, r *tetherv1.StopRequest) (*tetherv1.StopResponse, error) {
	grace := time.Duration(r.GraceSeconds) * time.Second
	if r.NoGraceLimit {
		grace = -1
	}
	return &tetherv1.StopResponse{}, sessionError(a.Config.Stop(ctx, unix.Signal(r.Signal), grace))
}

// Hold stops the container's processes for a fork.
func (a *Agent) Hold(ctx context.Context, r *tetherv1.HoldRequest) (*tetherv1.HoldResponse, error) {
	if a.Config.Hold == nil {
		return nil, errNoContainer()
	}
	return &tetherv1.HoldResponse{}, sessionError(a.Config.Hold(ctx, r.AtPoint))
}

// Release lets the container's processes go on.
func (a *Agent) Release(_ context.Context, r *tetherv1.ReleaseRequest) (*tetherv1.ReleaseResponse, error) {
	if a.Config.Release == nil {
		return nil, errNoContainer()
	}
	return &tetherv1.ReleaseResponse{}, sessionError(a.Config.Release(r.Fork))
}

// Unpack extracts a layer.
func (a *Agent) Unpack(ctx context.Context, r *tetherv1.UnpackRequest) (*tetherv1.UnpackResponse, error) {
	if a.Unpacker == nil {
		return nil, link.Refuse(errdefs.ErrFailedPrecondition, "this machine runs a container: it unpacks no layers")
	}
	if !link.ValidSession(r.Upload) {
		return nil, link.Refuse(errdefs.ErrInvalidArgument, "malformed upload id %.80q", r.Upload)
	}
	defer a.beginAnswer()()
	return a.Unpacker.Unpack(ctx, r)
}

// OpenOutput reads a session's output.
func (a *Agent) OpenOutput(_ context.Context, id string, stream link.RecordStream, offset int64) (io.ReadCloser, int64, int64, error) {
	s, err := a.session(id)
	if err != nil {
		return nil, 0, 0, err
	}
	ring := s.Stdout
	if stream == link.StreamStderr {
		ring = s.Stderr
	}
	r, err := s.Output(ring, offset)
	if err != nil {
		return nil, 0, 0, link.Refuse(errdefs.ErrOutOfRange, "%v", err)
	}
	return r, r.First(), r.Dropped(), nil
}

// OpenInput writes to a session's stdin.
func (a *Agent) OpenInput(ctx context.Context, id string) (io.WriteCloser, error) {
	s, err := a.session(id)
	if err != nil {
		return nil, err
	}
	in, err := s.Input(ctx)
	return in, sessionError(err)
}

// Upload hands a layer to Unpack, or a tar to Import.
func (a *Agent) Upload(ctx context.Context, id string, r io.Reader) error {
	switch {
	case a.Unpacker != nil:
		return a.Unpacker.uploads.offer(ctx, id, r)
	case a.Files != nil:
		return a.uploads.offer(ctx, id, r)
	}
	return link.Refuse(errdefs.ErrFailedPrecondition, "this machine takes no uploads")
}

// dialWait is how long a connection in the container's network may take to be made.
const dialWait = 30 * time.Second

// Connect connects in the container's network, which is the machine's own.
func (a *Agent) Connect(ctx context.Context, network string, address netip.AddrPort) (net.Conn, error) {
	if a.Container == nil {
		return nil, errNoContainer()
	}
	dialer := net.Dialer{Timeout: dialWait, KeepAlive: -1}
	conn, err := dialer.DialContext(ctx, network, address.String())
	if err != nil {
		return nil, link.Refuse(dialClass(err), "%v", err)
	}
	return conn, nil
}

func dialClass(err error) error {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return context.DeadlineExceeded
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EAFNOSUPPORT):
		return errdefs.ErrInvalidArgument
	default:
		return errdefs.ErrUnavailable // nobody listens, no route, an address of the host's choice that is not there yet
	}
}

// Configure makes the container's network anew.
func (a *Agent) Configure(ctx context.Context, r *tetherv1.ConfigureRequest) (*tetherv1.ConfigureResponse, error) {
	if a.Network == nil {
		return nil, errNoContainer()
	}
	defer a.beginAnswer()()
	resp, err := a.Network(ctx, r)
	return resp, sessionError(err)
}

func (a *Agent) session(id string) (*process.Session, error) {
	if a.Container == nil {
		return nil, errNoContainer()
	}
	if s, ok := a.Container.Session(id); ok {
		return s, nil
	}
	return nil, link.Refuse(errdefs.ErrNotFound, "no such session: %.80s", id)
}

func errNoContainer() error {
	return link.Refuse(errdefs.ErrFailedPrecondition, "this machine unpacks layers: it runs no container")
}

// sessionError is an error of a session as a refusal.
func sessionError(err error) error {
	var refusal *link.Refusal
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refusal): // it has its class
		return refusal
	case errors.Is(err, process.ErrEnded), errors.Is(err, process.ErrNoStdin), errors.Is(err, process.ErrNoTerminal):
		return link.Refuse(errdefs.ErrFailedPrecondition, "%v", err)
	case errors.Is(err, unix.EINVAL):
		return link.Refuse(errdefs.ErrInvalidArgument, "%v", err)
	default:
		return link.Refuse(errdefs.ErrInternal, "%v", err)
	}
}
