package linktest

import (
	"context"
	"io"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Program is what a fake process does; it returns how it ends. It must end when p.Killed is closed.
type Program func(p *Process) *tetherv1.Exit

// Process is a running fake process.
type Process struct {
	Spec    *tetherv1.Process
	Stdin   io.Reader // io.EOF when the host closed it
	Stdout  io.Writer
	Stderr  io.Writer             // Stdout, with a terminal
	Signals <-chan syscall.Signal // all but SIGKILL; at most 16 wait
	Killed  <-chan struct{}       // closed by SIGKILL, and at the end of the test

	pid     int32
	started time.Time
	stdin   *pipe
	out     *ring
	err     *ring
	signals chan syscall.Signal
	kill    context.CancelFunc
	done    chan struct{}

	mu      sync.Mutex
	windows []*tetherv1.Window
	exit    *tetherv1.Exit
}

func newProcess(ctx context.Context, pid int32, spec *tetherv1.Process, keepOut, keepErr bool) *Process {
	ctx, kill := context.WithCancel(ctx)
	signals := make(chan syscall.Signal, 16)
	p := &Process{
		Spec: spec, pid: pid, started: time.Now(), stdin: newPipe(), out: newRing(keepOut), err: newRing(keepErr),
		Signals: signals, signals: signals, Killed: ctx.Done(), kill: kill, done: make(chan struct{}),
	}
	p.Stdin, p.Stdout, p.Stderr = p.stdin, p.out, p.err
	if spec.GetTty() {
		p.Stderr = p.out
	}
	context.AfterFunc(ctx, p.stdin.end)
	if !spec.GetStdin() {
		_ = p.stdin.Close()
	}
	if w := spec.GetWindow(); w != nil {
		p.windows = append(p.windows, w)
	}
	return p
}

func (p *Process) run(program Program) {
	exit := program(p)
	select {
	case <-p.Killed:
		exit = Signalled(syscall.SIGKILL)
	default:
	}
	p.mu.Lock()
	p.exit = exit
	p.mu.Unlock()
	p.out.end()
	p.err.end()
	p.stdin.end()
	p.kill()
	close(p.done)
}

func (p *Process) signal(s syscall.Signal) {
	if s == syscall.SIGKILL {
		p.kill()
		return
	}
	select {
	case p.signals <- s:
	default: // as the kernel, which keeps only one of each
	}
}

func (p *Process) resize(w *tetherv1.Window) {
	p.mu.Lock()
	p.windows = append(p.windows, w)
	p.mu.Unlock()
	p.signal(syscall.SIGWINCH)
}

// Windows are the sizes that the process's terminal has had, in order.
func (p *Process) Windows() []*tetherv1.Window {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]*tetherv1.Window(nil), p.windows...)
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit is how the process ended, nil before.
func (p *Process) Exit() *tetherv1.Exit {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exit
}

// Exited is the end of a process that returns code.
func Exited(code int32) *tetherv1.Exit { return &tetherv1.Exit{Code: code} }

// Signalled is the end of a process by a signal.
func Signalled(s syscall.Signal) *tetherv1.Exit {
	return &tetherv1.Exit{Code: 128 + int32(s), Signal: int32(s)}
}

// programs are those that every fake tether has; a name is the last element of args[0].
func programs() map[string]Program {
	return map[string]Program{"echo": echo, "cat": cat, "exit": exit, "true": exit, "sleep": sleep, "yes": yes}
}

// echo writes its arguments to stdout.
func echo(p *Process) *tetherv1.Exit {
	_, _ = io.WriteString(p.Stdout, strings.Join(p.Spec.GetArgs()[1:], " ")+"\n")
	return Exited(0)
}

// cat copies stdin to stdout.
func cat(p *Process) *tetherv1.Exit {
	_, _ = io.Copy(p.Stdout, p.Stdin)
	return Exited(0)
}

// exit writes "bye" to stderr and exits with its argument, 0 without one.
func exit(p *Process) *tetherv1.Exit {
	if len(p.Spec.GetArgs()) < 2 {
		return Exited(0)
	}
	code, _ := strconv.Atoi(p.Spec.GetArgs()[1])
	_, _ = io.WriteString(p.Stderr, "bye\n")
	return Exited(int32(code))
}

// sleep waits for a signal other than SIGWINCH.
func sleep(p *Process) *tetherv1.Exit {
	for {
		select {
		case s := <-p.Signals:
			if s != syscall.SIGWINCH {
				return Signalled(s)
			}
		case <-p.Killed:
			return Signalled(syscall.SIGKILL)
		}
	}
}

// yes writes as many bytes as its argument says, each one the low byte of its offset modulo 251.
func yes(p *Process) *tetherv1.Exit {
	n := 0
	if len(p.Spec.GetArgs()) > 1 {
		n, _ = strconv.Atoi(p.Spec.GetArgs()[1])
	}
	_, _ = p.Stdout.Write(Pattern(0, n))
	return Exited(0)
}

// Pattern is what the program "yes" writes from offset on: no period of it is a power of two.
func Pattern(offset int64, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte((offset + int64(i)) % 251)
	}
	return b
}

// pipe is a standard input without a buffer: a Write waits for its reader, its context or the process's end.
type pipe struct {
	chunks chan []byte
	once   sync.Once
	eof    chan struct{}
	endOne sync.Once
	ended  chan struct{}
	rest   []byte // of the chunk that is being read; the reader's own
}

func newPipe() *pipe {
	return &pipe{chunks: make(chan []byte), eof: make(chan struct{}), ended: make(chan struct{})}
}

func (p *pipe) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		select {
		case p.rest = <-p.chunks:
		case <-p.eof:
			return 0, io.EOF
		case <-p.ended:
			return 0, io.ErrClosedPipe
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func (p *pipe) write(ctx context.Context, b []byte) (int, error) {
	select {
	case p.chunks <- append([]byte(nil), b...):
		return len(b), nil
	case <-p.eof:
		return 0, io.ErrClosedPipe
	case <-p.ended:
		return 0, io.ErrClosedPipe
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

func (p *pipe) end() { p.endOne.Do(func() { close(p.ended) }) }

func (p *pipe) Close() error {
	p.once.Do(func() { close(p.eof) })
	return nil
}

// input is the stdin of a process, for one attached host.
type input struct {
	ctx  context.Context
	pipe *pipe
}

func (i input) Write(b []byte) (int, error) { return i.pipe.write(i.ctx, b) }
func (i input) Close() error                { return i.pipe.Close() }
