package supervisor

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/hostd-bridge/internal/vsock"
)

// qemuProcess is a started QEMU.
type qemuProcess struct {
	cmd         *exec.Cmd
	control     *os.File           // our end of QMP
	interceptor *vsock.Interceptor // nil: the kernel plays vsock
	ended       chan struct{}      // closed when it is reaped; then err is set
	err         error              // of exec.Cmd.Wait
}

// startQEMU starts QEMU on a thread of its own, which lives as long as QEMU: the parent-death signal is sent when the
// thread that forked ends, and the seccomp filter that intercepts the vhost ioctls is one of that thread and of what it
// starts, so it needs no program between us and QEMU.
func startQEMU(cfg Config, inherit *os.File) (*qemuProcess, error) {
	q := &qemuProcess{ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := q.start(cfg, inherit)
		started <- err
		if err == nil {
			q.err = q.cmd.Wait()
			close(q.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("cannot start QEMU: %w", err)
	}
	return q, nil
}

// start runs on QEMU's thread.
func (q *qemuProcess) start(cfg Config, inherit *os.File) error {
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	stderr, err := os.Create(qemuLogPath(cfg.RunDir))
	if err != nil {
		ours.Close()
		return err
	}
	defer stderr.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		ours.Close()
		return err
	}
	defer null.Close()
	if !cfg.Kernel {
		if q.interceptor, err = vsock.Intercept(); err != nil {
			ours.Close()
			return err
		}
	}
	q.cmd = exec.Command(cfg.QEMU, cfg.Args...)
	q.cmd.Dir = cfg.RunDir
	q.cmd.Stderr, q.cmd.Stdout = stderr, stderr
	q.cmd.ExtraFiles = []*os.File{theirs, null, inherit} // QMPFD, VhostFD
	q.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := q.cmd.Start(); err != nil {
		ours.Close()
		if q.interceptor != nil {
			q.interceptor.Close()
		}
		return err
	}
	q.control = ours
	return nil
}

// socketPair returns two connected sockets; the runtime waits for the first.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a socket pair: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, fmt.Errorf("cannot make a socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "qmp"), os.NewFile(uintptr(fds[1]), "qmp-peer"), nil
}

// kill ends QEMU and waits until it is reaped.
func (q *qemuProcess) kill() {
	q.cmd.Process.Kill()
	<-q.ended
}
