package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"
)

// Run is the life of a supervisor: it reads a Config from in, starts the machine, writes the Result to out, closes
// both, and returns when the machine has ended.
func Run(in io.ReadCloser, out io.WriteCloser, log *slog.Logger) error {
	err := supervise(in, out, log)
	if err != nil {
		err = errors.Join(err, report(out, Result{Error: err.Error()}))
	}
	return err
}

// supervise returns an error only before the Result was written.
func supervise(in io.ReadCloser, out io.WriteCloser, log *slog.Logger) error {
	var cfg Config
	err := json.NewDecoder(in).Decode(&cfg)
	in.Close()
	if err != nil {
		return fmt.Errorf("cannot read the supervisor's configuration: %w", err)
	}
	lock, err := takeLock(cfg.RunDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := os.Remove(exitPath(cfg.RunDir)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove the last machine's report: %w", err)
	}
	l, err := listen(cfg.RunDir)
	if err != nil {
		return err
	}
	defer os.Remove(socketPath(cfg.RunDir))
	m, err := start(context.Background(), cfg, lock, log)
	if err != nil {
		l.Close()
		return err
	}
	if err := report(out, Result{}); err != nil {
		log.Error("nobody waits for the machine: it is ended", "err", err)
		go m.kill()
	}
	(&server{m: m}).serve(l)
	return nil
}

func report(out io.WriteCloser, r Result) error {
	err := json.NewEncoder(out).Encode(r)
	return errors.Join(err, out.Close())
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
