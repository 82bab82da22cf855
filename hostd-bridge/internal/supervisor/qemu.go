package supervisor

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/hostd-bridge/internal/jail"
	"github.com/containervm/containervm/hostd-bridge/internal/vsock"
)

// qemuProcess is a started QEMU.
type qemuProcess struct {
	cmd         *exec.Cmd
	control     *net.UnixConn          // our end of QMP
	console     *os.File               // our end of the serial port
	cards       []*os.File             // our ends of the network cards, by slot
	interceptor *vsock.Interceptor     // nil: the kernel plays vsock, and there is no filter
	said        io.Writer              // qemu.log
	denied      atomic.Pointer[string] // the call by which it was ended
	ended       chan struct{}          // closed when it is reaped; then err is set
	err         error                  // of exec.Cmd.Wait
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
	q.cmd = exec.Command(cfg.QEMU, cfg.Args...)
	if cfg.Confined {
		calls := jail.QEMUCalls{KVM: cfg.KVM, KernelVsock: cfg.Kernel}
		q.cmd = exec.Command(ownProgram, jail.LauncherArgs(calls, QMPFD, cfg.QEMU, cfg.Args...)...)
	} else if !cfg.Kernel {
		if q.interceptor, err = vsock.Intercept(); err != nil {
			return err
		}
	}
	q.cmd.Env = []string{} // nothing of ours
	q.said = &boundedLog{w: files.qemuLog, left: maxQEMULog}
	q.cmd.Stderr, q.cmd.Stdout = q.said, q.said
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
	if err := q.cmd.Start(); err != nil {
		return err
	}
	if cfg.Confined {
		return q.takeListener(theirs[0])
	}
	return nil
}

// ownProgram is what this process executes, whatever it is called.
const ownProgram = "/proc/self/exe"

// takeListener takes the listener of QEMU's filter, which the launcher sends over QMP's socket before it becomes QEMU. When that ends without
// one its last words are in qemu.log.
func (q *qemuProcess) takeListener(theirs *os.File) error {
	theirs.Close() // so that its end is seen
	listener, err := receiveListener(q.control)
	if err == nil {
		q.interceptor, err = vsock.NewInterceptor(listener, q.refused)
	}
	if err != nil {
		q.cmd.Process.Kill()
		_ = q.cmd.Wait() // the kill is its error
		return fmt.Errorf("its launcher failed: %w", err)
	}
	return nil
}

func receiveListener(from *net.UnixConn) (int, error) {
	if err := from.SetReadDeadline(time.Now().Add(startTimeout)); err != nil {
		return -1, err
	}
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := from.ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return -1, errors.New("it sent no listener")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, errors.New("it sent no listener")
	}
	unix.CloseOnExec(fds[0])
	return fds[0], from.SetReadDeadline(time.Time{})
}

// refused is told that QEMU called what is not on its list: a fault of it, or of the list. It is ended, and the last report names the call.
func (q *qemuProcess) refused(call int) {
	name := "a system call of another ABI"
	if call >= 0 {
		name = jail.CallName(call)
	}
	if q.denied.CompareAndSwap(nil, &name) {
		fmt.Fprintf(q.said, "QEMU called %s, which it has no need for: it is ended\n", name)
	}
	q.cmd.Process.Kill()
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
