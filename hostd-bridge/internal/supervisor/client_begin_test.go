package supervisor

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBeginUnreachable: a machine that runs but cannot be reached is ended, since nobody would know of it.
func TestBeginUnreachable(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "supervisor")
	const script = "#!/bin/sh\nread config; echo '{}'; read identity; echo '{}'; exec sleep 60\n" // makes no socket
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	p, err := Prestart(t.Context(), program, Config{RunDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(p.process.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if c, err := p.Begin(t.Context(), Identity{RunDir: dir}); err == nil {
		c.Close()
		t.Fatal("a supervisor without a socket was reached")
	}
	ended := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(ended, 0); err != nil || n != 1 {
		t.Errorf("the supervisor goes on: %d, %v", n, err)
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
}
