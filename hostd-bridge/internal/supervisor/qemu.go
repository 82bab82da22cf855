package supervisor

import (
	"fmt"
	"net"
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
	control     *net.UnixConn      // our end of QMP
	console     *os.File           // our end of the serial port
	cards       []*os.File         // our ends of the network cards, by slot
	interceptor *vsock.Interceptor // nil: the kernel plays vsock
	ended       chan struct{}      // closed when it is reaped; then err is set
	err         error              // of exec.Cmd.Wait
}

// startQEMU starts QEMU on a thread of its own that lives as long as QEMU, for two reasons: the parent-death signal is sent
// when the thread that forked ends, and the seccomp filter that intercepts the vhost ioctls holds for that thread and what it
// starts, so no program is needed between us and QEMU. QEMU inherits the lock, the memory and what else is named in its arguments.
func startQEMU(cfg Config, files Files, ram *os.File) (*qemuProcess, error) {
	q := &qemuProcess{ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := q.start(cfg, files, ram)
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
func (q *qemuProcess) start(cfg Config, files Files, ram *os.File) (err error) {
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
	if q.control, theirs[0], err = controlPair(); err != nil {
		return err
	}
	if q.console, theirs[1], err = socketPair(); err != nil {
		return err
	}
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
	q.cmd.Env = []string{} // nothing of ours
	said := &boundedLog{w: files.qemuLog, left: maxQEMULog}
	q.cmd.Stderr, q.cmd.Stdout = said, said
	first := files.Kernel // what is at StateFD, and KernelFD
	if cfg.Child {
		first = files.State
	}
	q.cmd.ExtraFiles = []*os.File{theirs[0], null, files.lock, theirs[1], ram, first, files.Initrd} // from QMPFD on; a nil file leaves its place free
	for range cfg.Cards {
		ours, card, err := socketPair()
		if err != nil {
			return err
		}
		others = append(others, card)
		q.cards, q.cmd.ExtraFiles = append(q.cards, ours), append(q.cmd.ExtraFiles, card)
	}
	q.cmd.ExtraFiles = append(q.cmd.ExtraFiles, files.captures...)
	q.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return q.cmd.Start()
}

// close closes what belongs to a QEMU that did not start.
func (q *qemuProcess) close() {
	closeAll(append(q.cards, q.console))
	if q.control != nil {
		q.control.Close()
	}
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

// controlPair returns two connected sockets, of which the first passes files.
func controlPair() (ours *net.UnixConn, theirs *os.File, err error) {
	end, theirs, err := socketPair()
	if err != nil {
		return nil, nil, err
	}
	defer end.Close()
	if ours, err = unixConn(end); err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// unixConn returns a connection on a socket, which may be closed then.
func unixConn(f *os.File) (*net.UnixConn, error) {
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s as a connection: %w", f.Name(), err)
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("cannot use %s as a connection: it is no unix socket", f.Name())
	}
	return conn, nil
}

// kill ends QEMU and waits until it is reaped.
func (q *qemuProcess) kill() {
	q.cmd.Process.Kill()
	<-q.ended
}
