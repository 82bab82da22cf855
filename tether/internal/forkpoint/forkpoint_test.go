package forkpoint

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAnswerIsNobodys: who is answered does not learn that it was by the tether, nor by whom it is served where another process listened.
func TestAnswerIsNobodys(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to speak for another process; try: sudo go test")
	}
	path := filepath.Join(t.TempDir(), "fork.sock")
	p, err := bind(path)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		t.Error("somebody listens already")
	}
	if err := unix.Listen(int(p.Descriptor()), 8); err != nil {
		t.Fatal(err)
	}
	if err := p.Serve(); err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	other := exec.Command("sleep", "100")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := conn.(*net.UnixConn)
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
	if err == nil {
		err = p.Await(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	p.Answer(other.Process.Pid, 3, 1)
	text, oob := make([]byte, 64), make([]byte, 256)
	n, m, _, _, err := c.ReadMsgUnix(text, oob)
	if err != nil || string(text[:n]) != "3 1\n" {
		t.Fatalf("%q, %v", text[:n], err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:m])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%v, %v", messages, err)
	}
	if from, err := unix.ParseUnixCredentials(&messages[0]); err != nil || int(from.Pid) != other.Process.Pid {
		t.Errorf("the answer is of %v, want of process %d, not of %d: %v", from, other.Process.Pid, os.Getpid(), err)
	}
}
