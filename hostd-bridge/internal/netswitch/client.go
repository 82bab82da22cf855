package netswitch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/hostd-bridge/internal/frames/unixsocket"
	"github.com/containervm/containervm/internal/trusted"
)

// Options say how a switch is started.
type Options struct {
	Program string // path of cvm-switch
	// Dir is the switch's own, for its sockets, its lock and its log. It is made with mode 0700.
	Dir  string
	Name string // of the network, for who looks at processes
	Log  *slog.Logger
}

// Switch is a running switch process.
type Switch struct {
	dir   string
	pidfd *os.File
	pid   int
	watch net.Conn // a connection that ends with the process
	done  chan struct{}
}

// Start starts a switch in a session of its own and returns when it serves. It has no endpoints, and no gateway, until Apply.
// It outlives the caller. An error wraps EWOULDBLOCK when one lives there already: adopt it.
func Start(ctx context.Context, o Options) (*Switch, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the directory of a switch: %w", err)
	}
	log, err := trusted.OpenFile(LogPath(o.Dir), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot start the switch of network %q: %w", o.Name, err)
	}
	defer log.Close()
	process := exec.Command(o.Program, "--dir", o.Dir, "--name", o.Name)
	process.Dir, process.Stderr = "/", log
	process.Env = []string{} // nothing of the daemon's
	process.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := process.StdoutPipe()
	if err == nil {
		err = process.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot start the switch of network %q: %w", o.Name, err)
	}
	stop := context.AfterFunc(ctx, func() { process.Process.Kill() })
	var said Started
	err = json.NewDecoder(io.LimitReader(out, 64<<10)).Decode(&said)
	if !stop() {
		err = context.Cause(ctx)
	}
	out.Close()
	switch {
	case err != nil:
		err = fmt.Errorf("cannot start the switch of network %q: %w (its log is %s)", o.Name, err, LogPath(o.Dir))
	case said.Error != "":
		err = fmt.Errorf("cannot start the switch of network %q: %s", o.Name, said.Error)
	}
	var s *Switch
	if err == nil {
		s, err = connect(ctx, o.Dir)
	}
	if err != nil {
		process.Process.Kill() // it may have ended already
		_ = process.Wait()     // the kill is its error
		return nil, err
	}
	go process.Wait() // reaps it, whenever it ends
	if o.Log != nil {
		o.Log.Debug("a switch serves", "network", o.Name, "pid", s.pid)
	}
	return s, nil
}

// Adopt finds the switch that lives in dir. It returns nil without an error when there is none, and has then removed what a dead one
// left, dir itself included. One that holds its lock and does not answer until ctx ends is an error.
func Adopt(ctx context.Context, dir string) (*Switch, error) {
	lock, err := os.Open(LockPath(dir))
	if errors.Is(err, os.ErrNotExist) {
		return nil, remove(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot look for a switch: %w", err)
	}
	defer lock.Close()
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return nil, remove(dir)
	}
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("cannot look for a switch: %w", err)
	}
	return connect(ctx, dir)
}

// remove removes what a dead switch has left.
func remove(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("cannot remove what a switch has left: %w", err)
	}
	return nil
}

// connect finds the process behind the control socket.
func connect(ctx context.Context, dir string) (*Switch, error) {
	s := &Switch{dir: dir, done: make(chan struct{})}
	watch, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	if s.pid, err = unixsocket.PeerPID(watch); err == nil {
		var fd int
		if fd, err = unix.PidfdOpen(s.pid, 0); err == nil {
			s.pidfd = os.NewFile(uintptr(fd), "switch")
		}
	}
	if err == nil {
		_, err = exchange(ctx, watch, Request{Op: OpStats}) // it is there, and not just its socket
	}
	if err != nil {
		watch.Close()
		if s.pidfd != nil {
			s.pidfd.Close()
		}
		return nil, fmt.Errorf("cannot speak with the switch in %s: %w", dir, err)
	}
	s.watch = watch
	go func() {
		defer close(s.done)
		watch.Read(make([]byte, 1)) // it sends nothing: this is its end, or Close
	}()
	return s, nil
}

func (s *Switch) dial(ctx context.Context) (*net.UnixConn, error) {
	conn, err := unixsocket.Dial(ctx, ControlPath(s.dir))
	if err != nil {
		return nil, fmt.Errorf("cannot reach the switch in %s: %w", s.dir, err)
	}
	return conn, nil
}

// exchange sends a request and takes the reply.
func exchange(ctx context.Context, c net.Conn, r Request) (Reply, error) {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	var answer Reply
	err := WriteMessage(c, r)
	if err == nil {
		err = ReadMessage(c, &answer)
	}
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case err == nil && answer.Error != "":
		err = errors.New(answer.Error)
	}
	return answer, err
}

// do executes a request on a connection of its own.
func (s *Switch) do(ctx context.Context, r Request) (Reply, error) {
	c, err := s.dial(ctx)
	if err != nil {
		return Reply{}, err
	}
	defer c.Close()
	answer, err := exchange(ctx, c, r)
	if err != nil {
		return Reply{}, fmt.Errorf("cannot %s at the switch in %s: %w", r.Op, s.dir, err)
	}
	return answer, nil
}

// Apply makes the switch as c says. An error concerns all of c, of which nothing was done then, unless the switch went away
// meanwhile; what concerns one endpoint is in the Result. Of calls at once, one is executed after the other.
func (s *Switch) Apply(ctx context.Context, c Config) (Result, error) {
	answer, err := s.do(ctx, Request{Op: OpApply, Config: &c})
	if err != nil || answer.Result == nil {
		return Result{}, err
	}
	return *answer.Result, nil
}

// Stats asks the switch for its counters.
func (s *Switch) Stats(ctx context.Context) (Stats, error) {
	answer, err := s.do(ctx, Request{Op: OpStats})
	if err != nil || answer.Stats == nil {
		return Stats{}, err
	}
	return *answer.Stats, nil
}

// PID is the switch's process.
func (s *Switch) PID() int { return s.pid }

// Done is closed when the process ends, by whatever, and by Close.
func (s *Switch) Done() <-chan struct{} { return s.done }

// Stop ends the switch, with all connections through it, and returns when its process is gone and its directory removed. One
// that does not end by itself before ctx does is killed. Close it nevertheless.
func (s *Switch) Stop(ctx context.Context) error {
	free := make(chan error, 1)
	lock, err := os.Open(LockPath(s.dir))
	if err != nil {
		return fmt.Errorf("cannot stop a switch: %w", err)
	}
	if _, err := s.do(ctx, Request{Op: OpStop}); err != nil {
		_ = unix.PidfdSendSignal(int(s.pidfd.Fd()), unix.SIGKILL, nil, 0) // it may be gone
	}
	go func() { // ends with the process
		defer lock.Close()
		free <- unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}()
	select {
	case err = <-free:
	case <-ctx.Done():
		_ = unix.PidfdSendSignal(int(s.pidfd.Fd()), unix.SIGKILL, nil, 0) // it may be gone
		err = <-free
	}
	if err != nil {
		return fmt.Errorf("cannot wait for the end of a switch: %w", err)
	}
	return remove(s.dir)
}

// Close forgets the switch, which goes on.
func (s *Switch) Close() error {
	err := s.watch.Close()
	<-s.done
	return errors.Join(err, s.pidfd.Close())
}
