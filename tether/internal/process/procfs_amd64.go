package process

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// vforkMount runs mount(2), and listen(2) on listener unless that is 0, in a child of its own and returns the child's PID, or a negative
// error number.
//
//go:noescape
func vforkMount(source, target, kind *byte, flags, listener uintptr) (pid int)

// mountProc mounts the proc file system of the container's PID namespace on /proc of the calling thread's root. Only a
// process that lives in the namespace can do that (Linux, fs/proc/root.c, before 6.17). The child that does it needs no
// program and no exec: it makes three system calls.
//
// It is also the child that listens on listener, a unix socket, or 0: who connects learns who has listened (SO_PEERPIDFD, unix(7)), and
// with a descriptor of the tether the container's root could take the tether's own descriptors from it.
func mountProc(r *Reaper, listener uintptr) error {
	proc, err := unix.BytePtrFromString("proc")
	if err != nil {
		return err
	}
	target, err := unix.BytePtrFromString("/proc")
	if err != nil {
		return err
	}
	c, err := r.start(func() (int, error) {
		// A signal must not run the runtime's handler in the child, which shares this thread's memory.
		var every, old unix.Sigset_t
		for i := range every.Val {
			every.Val[i] = ^uint64(0)
		}
		if err := unix.PthreadSigmask(unix.SIG_SETMASK, &every, &old); err != nil {
			return 0, err
		}
		pid := vforkMount(proc, target, proc, unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, listener)
		if err := unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil); err != nil {
			return 0, err
		}
		if pid < 0 {
			return 0, unix.Errno(-pid)
		}
		return pid, nil
	})
	if err == nil {
		if ws := <-c.events; ws.ExitStatus() != 0 {
			err = unix.Errno(ws.ExitStatus())
		}
	}
	if err != nil {
		return fmt.Errorf("cannot mount /proc of the container: %w", err)
	}
	return nil
}
