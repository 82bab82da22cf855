package vsock

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Interceptor receives the vhost ioctls of one QEMU process, by seccomp user notification (seccomp_unotify(2)).
type Interceptor struct {
	listener *os.File
	denied   func(call int) // of what else is notified; may be nil
}

// NewInterceptor takes over the listener of a filter that was installed elsewhere and that also notifies of what QEMU may not do: such a call
// fails, and denied is told its number, or -1 if it is not of x86-64.
func NewInterceptor(listener int, denied func(call int)) (*Interceptor, error) {
	if err := unix.SetNonblock(listener, true); err != nil {
		unix.Close(listener)
		return nil, fmt.Errorf("cannot use the seccomp listener: %w", err)
	}
	return &Interceptor{listener: os.NewFile(uintptr(listener), "seccomp"), denied: denied}, nil
}

// Intercept makes every ioctl of type 0xAF (vhost) of processes started from now on by the calling thread a matter of
// the Interceptor; everything else is allowed. It also sets no_new_privs on the thread. The caller has locked its
// goroutine to the thread (runtime.LockOSThread) and never unlocks it, so that the filter stays with this thread.
func Intercept() (*Interceptor, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("cannot set no_new_privs: %w", err)
	}
	filter := vhostFilter()
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return nil, fmt.Errorf("cannot install a seccomp filter with a listener (needs Linux 5.0, and no other listener): %w", errno)
	}
	return NewInterceptor(int(fd), nil)
}

// Offsets in struct seccomp_data (include/uapi/linux/seccomp.h).
const (
	dataNumber  = 0
	dataArch    = 4
	dataRequest = 24 // low half of the second argument
)

// vhostFilter is the BPF program: user notification for ioctl(2) of type 0xAF, else allow.
func vhostFilter() []unix.SockFilter {
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	unless := func(k uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jf: skip}
	}
	ret := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	return []unix.SockFilter{
		load(dataArch),
		unless(unix.AUDIT_ARCH_X86_64, 6),
		load(dataNumber),
		unless(unix.SYS_IOCTL, 4),
		load(dataRequest),
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0xFF00},
		unless(0xAF00, 1),
		ret(unix.SECCOMP_RET_USER_NOTIF),
		ret(unix.SECCOMP_RET_ALLOW),
	}
}

// notification is struct seccomp_notif.
type notification struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

// response is struct seccomp_notif_resp.
type response struct {
	id    uint64
	val   int64
	error int32
	flags uint32
}

// Serve answers the ioctls of the process, which was started after Intercept, with dev's help. It returns when the
// process has ended, with nil, or can be served no more. It closes the Interceptor. Without a device, which the kernel plays then,
// it only refuses.
func (i *Interceptor) Serve(pid int, dev *Device, log *slog.Logger) error {
	defer i.Close()
	p, err := openProcess(pid)
	if err != nil {
		return err
	}
	defer p.close()
	v := &vhost{log: log, dev: dev, peer: p}
	if dev != nil {
		defer v.close()
	}
	raw, err := i.listener.SyscallConn()
	if err != nil {
		return err
	}
	for {
		n, err := receiveNotification(raw)
		if err == errProcessEnded || errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		if n == nil {
			continue
		}
		if err := answer(raw, n.id, i.execute(n, v), log); err != nil {
			return err
		}
	}
}

// execute does what a notified call asks for, or refuses it.
func (i *Interceptor) execute(n *notification, v *vhost) error {
	if n.arch == unix.AUDIT_ARCH_X86_64 && n.nr == unix.SYS_IOCTL && n.args[1]&0xFF00 == 0xAF00 && v.dev != nil {
		return v.ioctl(uint32(n.args[1]), n.args[2])
	}
	if i.denied != nil {
		call := -1
		if n.arch == unix.AUDIT_ARCH_X86_64 {
			call = int(n.nr)
		}
		i.denied(call)
	}
	return unix.ENOSYS
}

// Close ends Serve. QEMU's vhost ioctls fail from then on.
func (i *Interceptor) Close() error { return i.listener.Close() }

var errProcessEnded = errors.New("process ended")

// receiveNotification waits for a notification. It returns nil when the caller was killed before we could look.
func receiveNotification(raw syscall.RawConn) (*notification, error) {
	n := new(notification)
	var result error
	err := raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, 0); err != nil {
			return false
		}
		switch {
		case poll[0].Revents&unix.POLLIN != 0:
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(n)))
			if errno == unix.ENOENT || errno == unix.EINTR {
				n = nil
			} else if errno != 0 {
				result = fmt.Errorf("cannot receive a seccomp notification: %w", errno)
			}
			return true
		case poll[0].Revents != 0:
			result = errProcessEnded
			return true
		}
		return false
	})
	if err != nil {
		return nil, err
	}
	return n, result
}

// answer lets the notified call return with err, or with 0.
func answer(raw syscall.RawConn, id uint64, err error, log *slog.Logger) error {
	r := response{id: id}
	if err != nil {
		errno := unix.EIO
		errors.As(err, &errno)
		r.error = -int32(errno)
		if errno != unix.ENOTTY && errno != unix.ENOSYS {
			log.Error("vhost request failed", "err", err)
		}
	}
	var result error
	ctl := raw.Control(func(fd uintptr) {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&r)))
		if errno != 0 && errno != unix.ENOENT { // ENOENT: the caller is gone
			result = fmt.Errorf("cannot answer a seccomp notification: %w", errno)
		}
	})
	if ctl != nil {
		return ctl
	}
	return result
}
