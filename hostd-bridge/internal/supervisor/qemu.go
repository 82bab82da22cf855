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
	console     *os.File           // our end of the serial port
	cards       []*os.File         // our ends of the network cards, by slot
	interceptor *vsock.Interceptor // nil: the kernel plays vsock
	ended       chan struct{}      // closed when it is reaped; then err is set
	err         error              // of exec.Cmd.Wait
}

// startQEMU starts QEMU on a thread of its own that lives as long as QEMU, for two reasons: the parent-death signal is sent
// when the thread that forked ends, and the seccomp filter that intercepts the vhost ioctls holds for that thread and what it
// starts, so no program is needed between us and QEMU. QEMU inherits the lock, the memory and, for a child, the state.
func startQEMU(cfg Config, lock, ram, state *os.File) (*qemuProcess, error) {
	q := &qemuProcess{ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := q.start(cfg, lock, ram, state)
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
func (q *qemuProcess) start(cfg Config, lock, ram, state *os.File) (err error) {
	var theirs [2]*os.File // control, console
	var others []*os.File
	defer func() {
		for _, f := range append(others, theirs[:]...) {
			if f != nil {
				f.Close()
			}
		}
		if err != nil {
			q.close()
		}
	}()
	if q.control, theirs[0], err = socketPair(); err != nil {
		return err
	}
	if q.console, theirs[1], err = socketPair(); err != nil {
		return err
	}
	stderr, err := os.Create(qemuLogPath(cfg.RunDir))
	if err != nil {
		return err
	}
	others = append(others, stderr)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	others = append(others, null)
	if !cfg.Kernel {
		if q.interceptor, err = vsock.Intercept(); err != nil {
			return err
		}
	}
	q.cmd = exec.Command(cfg.QEMU, cfg.Args...)
	q.cmd.Dir = cfg.RunDir
	q.cmd.Stderr, q.cmd.Stdout = stderr, stderr
	q.cmd.ExtraFiles = []*os.File{theirs[0], null, lock, theirs[1], ram, state} // from QMPFD on; a nil file leaves its place free
	for range cfg.Cards {
		ours, card, err := socketPair()
		if err != nil {
			return err
		}
		others = append(others, card)
		q.cards, q.cmd.ExtraFiles = append(q.cards, ours), append(q.cmd.ExtraFiles, card)
	}
	q.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return q.cmd.Start()
}

// close closes what belongs to a QEMU that did not start.
func (q *qemuProcess) close() {
	closeAll(append(q.cards, q.control, q.console))
	if q.interceptor != nil {
		q.interceptor.Close()
	}
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
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}

// kill ends QEMU and waits until it is reaped.
func (q *qemuProcess) kill() {
	q.cmd.Process.Kill()
	<-q.ended
}
