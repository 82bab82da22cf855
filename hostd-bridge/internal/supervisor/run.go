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

	"golang.org/x/sys/unix"
)

// Run is the life of a supervisor: it reads a Config from in, starts QEMU, writes a Result to out, reads an Identity, lets
// the machine run, writes the second Result, closes both, and returns when the machine has ended. Without an Identity the
// machine is given up before it was anyone.
func Run(in io.ReadCloser, out io.WriteCloser, log *slog.Logger) error {
	err := supervise(in, out, log)
	if err != nil {
		err = errors.Join(err, report(out, err), out.Close())
	}
	return err
}

// supervise returns an error only before the second Result was written.
func supervise(in io.ReadCloser, out io.WriteCloser, log *slog.Logger) error {
	documents := json.NewDecoder(in)
	var cfg Config
	if err := documents.Decode(&cfg); err != nil {
		return fmt.Errorf("cannot read the supervisor's configuration: %w", err)
	}
	lock, err := takeLock(cfg.RunDir)
	if err != nil {
		return err
	}
	defer runtime.KeepAlive(lock) // closed by the end of this process: who waits for the lock finds no process any more
	if err := os.Remove(exitPath(cfg.RunDir)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove the last machine's report: %w", err)
	}
	ctx := context.Background()
	m, err := prepare(ctx, cfg, lock, log)
	if err != nil {
		return err
	}
	id := Identity{}
	if report(out, nil) != nil || documents.Decode(&id) != nil {
		m.qemu.kill()
		m.vsock.Close()
		return errors.Join(errUnwanted, os.RemoveAll(cfg.RunDir))
	}
	in.Close()
	l, err := m.settle(ctx, id)
	if err != nil {
		return err
	}
	defer os.Remove(socketPath(id.RunDir))
	if err := errors.Join(report(out, nil), out.Close()); err != nil {
		log.Error("nobody waits for the machine: it is ended", "err", err)
		go m.kill()
	}
	(&server{m: m}).serve(l)
	return nil
}

var errUnwanted = errors.New("the machine was given up before it was anyone")

// settle moves to the machine's own directory, makes its socket there and begins.
func (m *machine) settle(ctx context.Context, id Identity) (*net.UnixListener, error) {
	if id.RunDir != m.cfg.RunDir {
		if err := unix.Rename(m.cfg.RunDir, id.RunDir); err != nil { // os.Rename takes no empty directory's place
			m.qemu.kill()
			m.vsock.Close()
			return nil, fmt.Errorf("cannot move into the machine's directory: %w", err)
		}
	}
	l, err := listen(id.RunDir)
	if err != nil {
		m.qemu.kill()
		m.vsock.Close()
		return nil, err
	}
	if err := m.begin(ctx, id); err != nil {
		l.Close()
		return nil, errors.Join(err, os.Remove(socketPath(id.RunDir)))
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

// takeLock takes the lock that says that processes of a machine exist in runDir. QEMU inherits it, so it is free only
// when both are gone.
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
