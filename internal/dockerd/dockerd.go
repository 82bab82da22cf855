// Package dockerd starts Docker's own daemon beside others, for what is compared with it: it has a state, a network namespace and mounts of its own.
package dockerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Daemon is a Docker daemon of Debian's with a state, a network namespace and mounts of its own: runc, overlay2, its default bridge.
type Daemon struct {
	Socket string
	cmd    *exec.Cmd
	log    string
}

// withLoopback runs a program in a new network namespace once its loopback is up, as it is on every machine: published ports are there.
const withLoopback = `if command -v ip >/dev/null; then ip link set lo up; fi; exec "$@"`

// patience bounds the start and the end of the daemon.
const patience = time.Minute

// Start starts the daemon with all its state in dir, and waits until it serves. It needs root. arguments are given to it beside those of the
// directories.
func Start(ctx context.Context, dir string, arguments ...string) (*Daemon, error) {
	program, err := exec.LookPath("dockerd")
	if err != nil {
		return nil, fmt.Errorf("cannot find dockerd (try: apt-get install docker.io): %w", err)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("dockerd needs root")
	}
	d := &Daemon{Socket: filepath.Join(dir, "dockerd.sock"), log: filepath.Join(dir, "dockerd.log")}
	log, err := os.Create(d.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	arguments = append([]string{"-eu", "-c", withLoopback, "dockerd", program, "--data-root", filepath.Join(dir, "dockerd"), "--exec-root", filepath.Join(dir, "dockerd-run"),
		"-H", "unix://" + d.Socket, "--pidfile", filepath.Join(dir, "dockerd.pid"), "--storage-driver", "overlay2"}, arguments...)
	d.cmd = exec.Command("/bin/sh", arguments...)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	// A network and mounts of its own: its bridge, its packet filter and what it mounts are gone with it. An interrupt of the benchmark ends
	// it by Close.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start dockerd: %w", err)
	}
	if err := d.await(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// PID is the daemon's process, by which one enters its network namespace.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// await waits until the daemon serves its socket, which nothing announces.
func (d *Daemon) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		if _, err := os.Stat(d.Socket); err == nil {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			text, _ := os.ReadFile(d.log)
			return fmt.Errorf("dockerd does not serve its socket: %w; the end of its log:\n%s", context.Cause(ctx), text[max(0, len(text)-2000):])
		}
	}
}

// Close ends the daemon in order; its containers have ended.
func (d *Daemon) Close() error {
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	ended := make(chan error, 1)
	go func() { ended <- d.cmd.Wait() }()
	select {
	case <-ended:
		return nil
	case <-time.After(patience):
		return errors.Join(errors.New("dockerd does not end"), d.cmd.Process.Kill(), <-ended)
	}
}
