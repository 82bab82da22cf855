package core

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/hostd-bridge/internal/frames/unixsocket"
	"github.com/containervm/containervm/hostd-bridge/internal/netswitch"
	"github.com/containervm/containervm/internal/trusted"
)

const (
	// maxControls bounds the connections to the control socket: the daemon needs few.
	maxControls = 32
	// maxLog bounds the process's log file, in bytes; it begins anew behind that.
	maxLog = 1 << 20
	// softMemory is what the collector tries to stay below, in bytes; maxMemory is where no new sessions begin.
	softMemory = 256 << 20
	maxMemory  = 512 << 20
)

// Run is the life of a switch process whose directory is dir: it says on out that it serves, or why not, and returns when ctx ends or
// the control socket says so.
func Run(ctx context.Context, dir, name string, out io.WriteCloser, log *os.File) error {
	err := run(ctx, dir, name, out, log)
	if err != nil { // nobody may listen any more
		_ = json.NewEncoder(out).Encode(netswitch.Started{Error: err.Error()})
		out.Close()
	}
	return err
}

func run(ctx context.Context, dir, name string, out io.WriteCloser, logFile *os.File) error {
	if err := confine(); err != nil {
		return err
	}
	lock, err := takeLock(dir)
	if err != nil {
		return err
	}
	defer runtime.KeepAlive(lock) // closed by the end of this process: whoever gets the lock finds no process any more
	log := slog.New(slog.NewTextHandler(&boundedFile{file: logFile}, nil)).With("network", name)
	core, err := newCore(log, host())
	if err != nil {
		return err
	}
	defer core.close()
	control, err := unixsocket.Listen(netswitch.ControlPath(dir))
	if err != nil {
		return err
	}
	defer os.Remove(netswitch.ControlPath(dir))
	cards, err := unixsocket.Listen(netswitch.FramesPath(dir))
	if err != nil {
		control.Close()
		return err
	}
	defer os.Remove(netswitch.FramesPath(dir))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { control.Close(); cards.Close() })()
	if err := json.NewEncoder(out).Encode(netswitch.Started{}); err != nil {
		log.Warn("nobody waits for the switch", "err", err) // it may be adopted
	}
	out.Close()
	var serving sync.WaitGroup
	serving.Go(func() { core.serveCards(cards) })
	serving.Go(func() { core.serveControl(ctx, control, cancel) })
	serving.Wait()
	control.Close()
	cards.Close()
	log.Info("the switch ends")
	return nil
}

// confine gives up what the process has no need for. The lasting walls around it are the host's.
func confine() error {
	debug.SetMemoryLimit(softMemory)
	unix.Umask(0o077)
	// It is a property of threads, of which there are several. A program with cgo, which a test is, cannot set it for all.
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 && errno != unix.ENOTSUP {
		return fmt.Errorf("cannot give up new privileges: %w", errno)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot keep others out of the switch's memory: %w", err)
	}
	return nil
}

func takeLock(dir string) (*os.File, error) {
	f, err := trusted.OpenFile(netswitch.LockPath(dir), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the switch's lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot start a switch in %s: another one lives there: %w", dir, err)
	}
	return f, nil
}

// boundedFile is a log file that begins anew when it is full. slog's handler writes one record at a time.
type boundedFile struct {
	file    *os.File
	written int64
}

func (b *boundedFile) Write(p []byte) (int, error) {
	if b.written += int64(len(p)); b.written > maxLog {
		if err := b.file.Truncate(0); err != nil { // it is no file: whoever reads it bounds it
			return b.file.Write(p)
		}
		b.written = int64(len(p))
	}
	return b.file.Write(p)
}

// serveControl answers the daemon until the listener is closed. stop ends the process.
func (c *core) serveControl(ctx context.Context, l *net.UnixListener, stop func()) {
	var conns sync.WaitGroup
	defer conns.Wait()
	free := make(chan struct{}, maxControls)
	for {
		conn, err := acceptUnix(l)
		if err != nil {
			return
		}
		select {
		case free <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		conns.Go(func() {
			defer func() { <-free }()
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			c.answer(conn, stop)
		})
	}
}

// acceptUnix takes the next connection. A process that has no descriptor left waits for one.
func acceptUnix(l *net.UnixListener) (*net.UnixConn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err == nil || !outOfFiles(err) {
			return conn, err
		}
		time.Sleep(outOfFilesPause)
	}
}

// outOfFilesPause is how long a listener waits when the process has no descriptor left: nothing tells when it has again.
const outOfFilesPause = 50 * time.Millisecond

func outOfFiles(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM) ||
		errors.Is(err, unix.ECONNABORTED)
}

// answer executes the requests of a connection until it ends or makes no sense.
func (c *core) answer(conn net.Conn, stop func()) {
	for {
		var r netswitch.Request
		if err := netswitch.ReadMessage(conn, &r); err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				c.log.Warn("no request on the control socket", "err", err)
			}
			return
		}
		var answer netswitch.Reply
		switch {
		case r.Op == netswitch.OpApply && r.Config != nil:
			result, err := c.apply(*r.Config)
			if answer.Result = &result; err != nil {
				answer = netswitch.Reply{Error: err.Error()}
			}
		case r.Op == netswitch.OpStats:
			stats := c.stats()
			answer.Stats = &stats
		case r.Op == netswitch.OpStop:
			defer stop()
		default:
			answer.Error = fmt.Sprintf("unknown request %q: daemon and switch are of different versions", r.Op)
		}
		if err := netswitch.WriteMessage(conn, answer); err != nil || r.Op == netswitch.OpStop {
			return
		}
	}
}
