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
	listener net.Listener
	done     chan struct{} // closed when accept has ended

	mu      sync.Mutex
	waiting []net.Conn
	arrived chan struct{} // closed when the next one does
}

// Listen makes the socket. It is called in the container's root, whose Dir must exist.
func Listen() (*Point, error) {
	l, err := net.Listen("unix", Socket)
	if err == nil {
		err = os.Chmod(Socket, 0o666)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make the fork point's socket: %w", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // the name is another root's
	return serve(l), nil
}

func serve(l net.Listener) *Point {
	p := &Point{listener: l, done: make(chan struct{}), arrived: make(chan struct{})}
	go p.accept()
	return p
}

func (p *Point) accept() {
	defer close(p.done)
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
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

// Answer tells all processes that wait which machine this is.
func (p *Point) Answer(generation, index uint32) {
	p.mu.Lock()
	waiting := p.waiting
	p.waiting = nil
	p.mu.Unlock()
	for _, c := range waiting {
		_, _ = fmt.Fprintf(c, "%d %d\n", generation, index) // a process that has given up reads nothing
		_ = c.Close()
	}
}

// Close ends the waiting without an answer.
func (p *Point) Close() {
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
