package peer

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

// Dockerd is a Docker daemon of Debian's with a state, a network namespace and mounts of its own: runc, overlay2, its default bridge.
type Dockerd struct {
	Socket string
	cmd    *exec.Cmd
	log    string
}

// dockerdWait bounds the start and the end of the daemon.
const dockerdWait = time.Minute

// StartDockerd starts the daemon with all its state in dir. It needs root.
func StartDockerd(ctx context.Context, dir string) (*Dockerd, error) {
	program, err := exec.LookPath("dockerd")
	if err != nil {
		return nil, fmt.Errorf("cannot find dockerd (try: apt-get install docker.io): %w", err)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("dockerd needs root")
	}
	d := &Dockerd{Socket: filepath.Join(dir, "dockerd.sock"), log: filepath.Join(dir, "dockerd.log")}
	log, err := os.Create(d.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d.cmd = exec.Command(program, "--data-root", filepath.Join(dir, "dockerd"), "--exec-root", filepath.Join(dir, "dockerd-run"),
		"-H", "unix://"+d.Socket, "--pidfile", filepath.Join(dir, "dockerd.pid"), "--storage-driver", "overlay2")
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

// await waits until the daemon serves its socket, which nothing announces.
func (d *Dockerd) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dockerdWait)
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
func (d *Dockerd) Close() error {
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	ended := make(chan error, 1)
	go func() { ended <- d.cmd.Wait() }()
	select {
	case <-ended:
		return nil
	case <-time.After(dockerdWait):
		return errors.Join(errors.New("dockerd does not end"), d.cmd.Process.Kill(), <-ended)
	}
}
