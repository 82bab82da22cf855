package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"
	"github.com/moby/term"
)

// defaultDetachKeys are Docker's.
const defaultDetachKeys = "ctrl-p,ctrl-q"

// errDetached says that the user pressed the detach keys.
var errDetached = errors.New("detached")

// stream joins the user's standard streams and a hijacked connection of the API.
type stream struct {
	app        *app
	conn       client.HijackedResponse
	tty        bool
	stdin      bool
	detachKeys []byte // nil: the keys mean nothing
}

// detachKeys are the keys that end an attachment. The host looks for them too, and for Docker's default when it is told
// none, so it is always told which they are.
type detachKeys struct {
	text  string // in Docker's notation
	bytes []byte // as a terminal sends them
}

// parseDetachKeys understands Docker's notation: "ctrl-p,ctrl-q", "ctrl-@", "a,b,c"; "" is the default.
func parseDetachKeys(text string) (detachKeys, error) {
	text = firstSet(text, defaultDetachKeys)
	keys, err := term.ToBytes(text)
	if err != nil {
		return detachKeys{}, fmt.Errorf("cannot read the detach keys %q: %w", text, err)
	}
	return detachKeys{text, keys}, nil
}

// run copies until the output has ended, the user detaches (errDetached) or ctx ends. Input may end long before: then
// only that half of the connection is closed.
func (s *stream) run(ctx context.Context) error {
	defer s.conn.Close()
	restore, err := s.rawTerminal()
	if err != nil {
		return err
	}
	defer restore()
	output := make(chan error, 1)
	go func() { output <- s.copyOutput() }()
	input := make(chan error, 1)
	if s.stdin {
		go func() { input <- s.copyInput() }() // a read from a terminal cannot be broken off: it ends with the program
	}
	for {
		select {
		case err := <-output:
			return err
		case err := <-input:
			if errors.As(err, &term.EscapeError{}) {
				return errDetached
			}
			input = nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// rawTerminal hands the keyboard to the container, key by key, and returns what gives it back.
func (s *stream) rawTerminal() (restore func(), err error) {
	fd, terminal := term.GetFdInfo(s.app.in)
	if !s.tty || !s.stdin || !terminal {
		return func() {}, nil
	}
	state, err := term.SetRawTerminal(fd)
	if err != nil {
		return nil, fmt.Errorf("cannot put the terminal into raw mode: %w", err)
	}
	return func() { _ = term.RestoreTerminal(fd, state) }, nil
}

func (s *stream) copyOutput() error {
	var err error
	if s.tty {
		_, err = io.Copy(s.app.out, s.conn.Reader)
	} else {
		_, err = stdcopy.StdCopy(s.app.out, s.app.err, s.conn.Reader)
	}
	if err != nil {
		return fmt.Errorf("cannot read the output: %w", err)
	}
	return nil
}

func (s *stream) copyInput() error {
	in := s.app.in
	if s.tty && s.detachKeys != nil {
		in = term.NewEscapeProxy(in, s.detachKeys)
	}
	if _, err := io.Copy(s.conn.Conn, in); err != nil {
		return err
	}
	return s.conn.CloseWrite()
}

// size is the size of the user's terminal; zero when there is none.
func (a *app) size() client.ConsoleSize {
	fd, terminal := term.GetFdInfo(a.out)
	if !terminal {
		return client.ConsoleSize{}
	}
	ws, err := term.GetWinsize(fd)
	if err != nil {
		return client.ConsoleSize{}
	}
	return client.ConsoleSize{Height: uint(ws.Height), Width: uint(ws.Width)}
}

// followSize tells the container the terminal's size, now and whenever it changes, until the returned function is called.
func (a *app) followSize(resize func(client.ConsoleSize)) (stop func()) {
	return onSignals([]os.Signal{syscall.SIGWINCH}, func(os.Signal) { a.resizeTo(resize) }, func() { a.resizeTo(resize) })
}

func (a *app) resizeTo(resize func(client.ConsoleSize)) {
	if size := a.size(); size.Height > 0 && size.Width > 0 {
		resize(size)
	}
}

// onSignals runs first and then handle for every signal, in one goroutine that ends when stop is called.
func onSignals(signals []os.Signal, handle func(os.Signal), first func()) (stop func()) {
	c := make(chan os.Signal, 16)
	signal.Notify(c, signals...)
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		first()
		for {
			select {
			case s := <-c:
				handle(s)
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(c)
		close(done)
		<-ended
	}
}

// proxied are the signals that a user may send to cvm and mean the container. Not SIGCHLD, SIGPIPE and SIGURG, which the
// kernel and the Go runtime send to cvm itself, nor SIGWINCH, which becomes a resize.
func proxied() []os.Signal {
	return []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2,
		syscall.SIGALRM, syscall.SIGCONT, syscall.SIGTSTP}
}
