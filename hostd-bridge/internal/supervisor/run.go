package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"sync"
)

// Run is the life of a supervisor: it reads a Config from daemon, a unix socket, starts QEMU, writes a Result, reads an Identity, lets the
// machine run, writes the second Result, closes the socket, and returns when the machine has ended. When the socket ends without an
// Identity the machine is abandoned. Records go to log.
func Run(daemon *os.File, log io.Writer) error {
	conn, err := unixConn(daemon)
	daemon.Close()
	if err != nil {
		return err
	}
	err = supervise(conn, log)
	if err != nil {
		err = errors.Join(err, report(conn, err), conn.Close())
	}
	return err
}

// supervise returns an error only before the second Result was written.
func supervise(daemon *net.UnixConn, logTo io.Writer) error {
	var cfg Config
	received, err := receiveFrame(daemon, &cfg)
	if err != nil {
		return fmt.Errorf("cannot read the supervisor's configuration: %w", err)
	}
	files, err := filesOf(cfg, received)
	if err != nil {
		return err
	}
	defer runtime.KeepAlive(files.lock) // closed by the end of this process: whoever gets the lock finds no process any more
	l, err := listenerOf(files.listener)
	if err != nil {
		return err
	}
	defer l.Close()
	m, err := startMachine(cfg, files, newLog(logTo, cfg.Debug))
	if err != nil {
		return err
	}
	next := func() (id Identity, err error) {
		if report(daemon, nil) != nil {
			return id, errUnwanted
		}
		received, err := receiveFrame(daemon, &id)
		if err != nil {
			return id, errUnwanted
		}
		if err := id.receive(received); err != nil {
			closeAll(received)
			return id, err
		}
		return id, nil
	}
	if err := m.bringUp(context.Background(), next); err != nil {
		return m.abandon(err)
	}
	s := &server{m: m}
	var serving sync.WaitGroup
	serving.Go(func() { s.serve(l) })
	if err := errors.Join(report(daemon, nil), daemon.Close()); err != nil {
		m.log.Error("the daemon no longer waits for the machine: it is ended", "err", err)
		m.end()
	}
	m.own()
	serving.Wait()
	return nil
}

// listenerOf takes over a socket that the daemon listens on.
func listenerOf(f *os.File) (*net.UnixListener, error) {
	l, err := net.FileListener(f)
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("cannot listen on the machine's socket: %w", err)
	}
	unix, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, errors.New("cannot listen on the machine's socket: it is no unix socket")
	}
	return unix, nil
}

func newLog(to io.Writer, debug bool) *slog.Logger {
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(&boundedLog{w: to, left: maxOwnLog}, &slog.HandlerOptions{Level: level}))
}

var errUnwanted = errors.New("the machine was abandoned before it had an identity")

// bringUp takes a machine from QEMU's start to running CPUs. identity is called when QEMU is ready; it returns errUnwanted when
// there is none. When bringUp fails the caller abandons the machine.
func (m *machine) bringUp(ctx context.Context, identity func() (Identity, error)) (err error) {
	if err := m.handshake(ctx); err != nil {
		return err
	}
	if m.id, err = identity(); err != nil {
		return err
	}
	defer func() { // QEMU has disks, and the log its own descriptor
		m.id.Root.Close()
		m.id.Rehearsal.Close()
		for _, d := range m.id.Disks {
			d.Image.Close()
		}
		m.id.Home.Close()
	}()
	return m.begin(ctx)
}

// report writes a Result.
func report(out io.Writer, err error) error {
	var r Result
	if err != nil {
		r.Error = err.Error()
	}
	return writeFrame(out, r)
}
