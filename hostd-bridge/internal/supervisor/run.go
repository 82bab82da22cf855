package supervisor

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
	"sync"

	"golang.org/x/sys/unix"
)

// Run is the life of a supervisor: it reads a Config from in, starts QEMU, writes a Result to out, reads an Identity, lets
// the machine run, writes the second Result, closes both, and returns when the machine has ended. When in ends without an
// Identity the machine is abandoned. Records go to log.
func Run(in io.ReadCloser, out io.WriteCloser, log io.Writer) error {
	err := supervise(in, out, log)
	if err != nil {
		err = errors.Join(err, report(out, err), out.Close())
	}
	return err
}

// supervise returns an error only before the second Result was written.
func supervise(in io.ReadCloser, out io.WriteCloser, logTo io.Writer) error {
	documents := json.NewDecoder(in)
	var cfg Config
	if err := documents.Decode(&cfg); err != nil {
		return fmt.Errorf("cannot read the supervisor's configuration: %w", err)
	}
	lock, err := takeLock(cfg.RunDir)
	if err != nil {
		return err
	}
	defer runtime.KeepAlive(lock) // closed by the end of this process: whoever gets the lock finds no process any more
	if err := os.Remove(exitPath(cfg.RunDir)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove the last machine's report: %w", err)
	}
	m, err := startMachine(cfg, lock, newLog(logTo, cfg.Debug))
	if err != nil {
		return err
	}
	next := func() (id Identity, err error) {
		if report(out, nil) != nil || documents.Decode(&id) != nil {
			err = errUnwanted
		}
		return id, err
	}
	l, err := m.bringUp(context.Background(), next)
	if err != nil {
		return m.abandon(err)
	}
	in.Close()
	defer os.Remove(socketPath(m.dir))
	s := &server{m: m}
	var serving sync.WaitGroup
	serving.Go(func() { s.serve(l) })
	if err := errors.Join(report(out, nil), out.Close()); err != nil {
		m.log.Error("the daemon no longer waits for the machine: it is ended", "err", err)
		m.end()
	}
	m.own()
	serving.Wait()
	return nil
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
func (m *machine) bringUp(ctx context.Context, identity func() (Identity, error)) (*net.UnixListener, error) {
	if err := m.handshake(ctx); err != nil {
		return nil, err
	}
	id, err := identity()
	if err != nil {
		return nil, err
	}
	l, err := m.assume(id)
	if err != nil {
		return nil, err
	}
	if err := m.begin(ctx); err != nil {
		l.Close()
		return nil, errors.Join(err, os.Remove(socketPath(m.dir)))
	}
	return l, nil
}

// report writes a Result.
func report(out io.Writer, err error) error {
	var r Result
	if err != nil {
		r.Error = err.Error()
	}
	return json.NewEncoder(out).Encode(r)
}

// takeLock takes the lock of the processes of the machine in runDir. QEMU inherits it, so it is free only when both are gone.
func takeLock(runDir string) (*os.File, error) {
	f, err := os.OpenFile(lockPath(runDir), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the machine's lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot start a machine in %s: another one runs there: %w", runDir, err)
	}
	return f, nil
}
