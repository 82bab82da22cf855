package linktest

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path"
	"slices"
	"sync"
	"testing"

	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Tether is a fake tether: a link.Handler in memory that any number of connections reach. Its processes live as long
// as it does, connections come and go.
type Tether struct {
	t      testing.TB
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu       sync.Mutex
	programs map[string]Program
	sessions map[string]*Process
	nextPID  int32
	conns    []net.Conn
	execs    []*tetherv1.ExecRequest
	stops    []*tetherv1.StopRequest
	uploads  map[string]*upload
	unpacked []Unpacked
	files    map[string]string // by clean path; directories have a "/" at the end
	imports  []*tetherv1.ImportRequest
	exports  []*tetherv1.ExportRequest
	export   func(w io.Writer) error // in the place of files; nil: those
	transfer map[string]chan io.Writer
	held     bool
	releases []*tetherv1.ReleaseRequest
	paused   bool
	onPause  func(paused bool) // nil: nobody
	onStats  func(context.Context) (*tetherv1.StatsResponse, error)
	counted  uint64 // calls of Stats
	updates  []*tetherv1.UpdateRequest

	configures []*tetherv1.ConfigureRequest
	dial       func(ctx context.Context, network string, address netip.AddrPort) (net.Conn, error) // nil: refused
}

// NewTether returns a fake tether with no process. Its end is that of the test, which then waits for all its goroutines.
func NewTether(t testing.TB) *Tether {
	ctx, cancel := context.WithCancel(context.Background())
	f := &Tether{
		t: t, ctx: ctx, cancel: cancel,
		programs: programs(), sessions: map[string]*Process{}, nextPID: 1, uploads: map[string]*upload{},
		files: map[string]string{"/": ""}, transfer: map[string]chan io.Writer{},
	}
	t.Cleanup(func() { cancel(); f.Lose(); f.work.Wait() })
	return f
}

// Program installs a program; name is compared with the last element of args[0].
func (f *Tether) Program(name string, program Program) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.programs[name] = program
}

// Start starts the main process. A program that the fake does not have fails the test.
func (f *Tether) Start(spec *tetherv1.Process) *Process {
	f.t.Helper()
	p, failure := f.spawn(link.MainSession, spec, false, false)
	if failure != nil {
		f.t.Fatalf("cannot start main process: %s", failure.Message)
	}
	return p
}

// Process is the process of a session, nil when there is none.
func (f *Tether) Process(session string) *Process {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sessions[session]
}

// Execs are the Exec requests so far, those that failed included.
func (f *Tether) Execs() []*tetherv1.ExecRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.execs)
}

// Stops are the Stop requests so far.
func (f *Tether) Stops() []*tetherv1.StopRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.stops)
}

// Dial opens a connection to the fake over a socket pair, spoiled by faults.
func (f *Tether) Dial(faults ...Fault) net.Conn {
	host, tether := SocketPair(f.t)
	f.serve(tether, faults)
	return host
}

// DialPipe is Dial over a net.Pipe, which buffers nothing.
func (f *Tether) DialPipe(faults ...Fault) net.Conn {
	host, tether := net.Pipe()
	f.serve(tether, faults)
	return host
}

// Client opens a link session over Dial. It is closed with the test.
func (f *Tether) Client(faults ...Fault) *link.Client {
	f.t.Helper()
	c, err := link.NewClient(f.ctx, f.Dial(faults...))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	return c
}

func (f *Tether) serve(conn net.Conn, faults []Fault) {
	for _, fault := range faults {
		conn = fault(conn)
	}
	f.mu.Lock()
	f.conns = append(f.conns, conn)
	f.mu.Unlock()
	f.work.Go(func() { _ = link.Serve(f.ctx, conn, f, slog.New(slog.DiscardHandler)) })
}

// PowerOff ends all processes and connections, as a machine does that is switched off.
func (f *Tether) PowerOff() {
	f.cancel()
	f.Lose()
}

// Lose ends all connections there are, as a fork or a dead supervisor does. Processes go on.
func (f *Tether) Lose() {
	f.mu.Lock()
	conns := f.conns
	f.conns = nil
	f.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}

// spawn starts a process as a session, or says why not.
func (f *Tether) spawn(session string, spec *tetherv1.Process, keepOut, keepErr bool) (*Process, *tetherv1.Failure) {
	if len(spec.GetArgs()) == 0 {
		return nil, &tetherv1.Failure{Reason: tetherv1.Failure_NOT_FOUND, Message: "no command"}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	program := f.programs[path.Base(spec.Args[0])]
	if program == nil {
		return nil, &tetherv1.Failure{
			Reason:  tetherv1.Failure_NOT_FOUND,
			Message: spec.Args[0] + ": no such program",
		}
	}
	p := newProcess(f.ctx, f.nextPID, spec, keepOut, keepErr)
	f.nextPID++
	f.sessions[session] = p
	f.work.Go(func() { p.run(program) })
	return p, nil
}
