package supervisor

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// deafArg is the argument of this test's program when it is started as a supervisor that answers nobody.
const deafArg = "deaf-supervisor"

// deafSupervisor closes its listener and says that all is well.
func deafSupervisor() error {
	daemon, err := unixConn(os.Stdin)
	if err != nil {
		return err
	}
	for _, document := range []any{new(Config), new(Identity)} {
		files, err := receiveFrame(daemon, document)
		if err != nil {
			return err
		}
		closeAll(files)
		if err := report(daemon, nil); err != nil {
			return err
		}
	}
	select {}
}

// TestBeginUnreachable: a machine that runs but cannot be reached is ended, since nobody would know of it.
func TestBeginUnreachable(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	p, err := Prestart(t.Context(), exec.Command(self, deafArg), dir, Config{}, Files{Kernel: null, Initrd: null})
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(p.process.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	id := identityIn(t, t.TempDir())
	defer id.Close()
	if c, err := p.Begin(t.Context(), dir, id); err == nil {
		c.Close()
		t.Fatal("a supervisor that does not listen was reached")
	}
	ended := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(ended, 0); err != nil || n != 1 {
		t.Errorf("the supervisor goes on: %d, %v", n, err)
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
}

// TestPrestartThatFails: whoever starts a machine in vain does not wait for itself.
func TestPrestartThatFails(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	dir := t.TempDir()
	if _, err := Prestart(t.Context(), exec.Command("/bin/false"), dir, Config{}, Files{Kernel: null, Initrd: null}); err == nil {
		t.Error("it was started")
	}
	if err := AwaitEnd(t.Context(), dir); err != nil {
		t.Error(err)
	}
}
