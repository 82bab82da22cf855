// Package forkpoint lets a process of the container say where it wants to be forked: it asks, and is answered once the machine
// was forked, in each machine with that machine's own number.
package forkpoint

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// Where a container finds it.
const (
	// Dir is a directory in the container's /dev.
	Dir = "/dev/cvm"
	// Program is the program that asks and prints the answer: "GENERATION INDEX" and a line feed, index 0 in the source.
	Program = Dir + "/forkpoint"
	// Socket is the unix socket that Program asks by. A process that connects waits, and reads the same line after the fork.
	Socket = Dir + "/fork.sock"
)

// maxWaiting bounds the processes that wait, each of which is an open connection of the tether's.
const maxWaiting = 1024

// Point is the tether's side.
type Point struct {
	socket   *os.File      // until Serve
	listener net.Listener  // nil until Serve
	done     chan struct{} // closed when accept has ended

	mu      sync.Mutex
	waiting []*net.UnixConn
	arrived chan struct{} // closed when the next one does
}

// Bind makes the socket, on which nobody listens yet. It is called in the container's root, whose Dir must exist.
func Bind() (*Point, error) { return bind(Socket) }

func bind(path string) (*Point, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot make the fork point's socket: %w", err)
	}
	p := &Point{socket: os.NewFile(uintptr(fd), path), done: make(chan struct{}), arrived: make(chan struct{})}
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err == nil {
		err = os.Chmod(path, 0o666)
	}
	if err != nil {
		_ = p.socket.Close()
		return nil, fmt.Errorf("cannot make the fork point's socket: %w", err)
	}
	return p, nil
}

// Descriptor is the socket's, on which somebody has to listen before Serve.
func (p *Point) Descriptor() uintptr { return p.socket.Fd() }

// Serve takes in who asks.
func (p *Point) Serve() error {
	l, err := net.FileListener(p.socket) // of a copy
	if err != nil {
		return fmt.Errorf("cannot serve the fork point: %w", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // the name is another root's
	p.listener = l
	go p.accept()
	return nil
}

func (p *Point) accept() {
	defer close(p.done)
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		c := conn.(*net.UnixConn)
		p.mu.Lock()
		if len(p.waiting) == maxWaiting {
			c.Close()
		} else {
			p.waiting = append(p.waiting, c)
			close(p.arrived)
			p.arrived = make(chan struct{})
		}
		p.mu.Unlock()
	}
}

// Await returns when a process waits. A process that has given up meanwhile counts.
func (p *Point) Await(ctx context.Context) error {
	for {
		p.mu.Lock()
		n, arrived := len(p.waiting), p.arrived
		p.mu.Unlock()
		if n > 0 {
			return nil
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Waiting is how many processes wait.
func (p *Point) Waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waiting)
}

// Answer tells all processes that wait which machine this is. The answer is said to be of the process pid, which must exist: whoever
// reads it may learn whose it is (SO_PASSPIDFD, unix(7)), which is not to be the tether.
func (p *Point) Answer(pid int, generation, index uint32) {
	p.mu.Lock()
	waiting := p.waiting
	p.waiting = nil
	p.mu.Unlock()
	text := fmt.Appendf(nil, "%d %d\n", generation, index)
	from := unix.UnixCredentials(&unix.Ucred{Pid: int32(pid)})
	for _, c := range waiting {
		_, _, _ = c.WriteMsgUnix(text, from, nil) // a process that has given up reads nothing
		_ = c.Close()
	}
}

// Close ends the waiting without an answer.
func (p *Point) Close() {
	_ = p.socket.Close()
	if p.listener == nil {
		return
	}
	_ = p.listener.Close()
	<-p.done
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.waiting {
		_ = c.Close()
	}
	p.waiting = nil
}

// IsProgram reports whether this process was started as Program.
func IsProgram() bool { return len(os.Args) > 0 && filepath.Base(os.Args[0]) == filepath.Base(Program) }

// Main is Program: it waits for the fork and copies the answer to out. Its result is the exit status.
func Main(out, errors io.Writer) int {
	c, err := net.Dial("unix", Socket)
	if err != nil {
		fmt.Fprintln(errors, "forkpoint: cannot ask for a fork:", err)
		return 1
	}
	defer c.Close()
	if n, err := io.Copy(out, c); n == 0 {
		fmt.Fprintln(errors, "forkpoint: the machine ended without a fork:", err)
		return 1
	}
	return 0
}
