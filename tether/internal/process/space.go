package process

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// leaveWait is how long Close waits for a call that the container holds up, as by a file system of its own making: the
// machine ends without it then.
const leaveWait = 5 * time.Second

// Space is the container's namespaces as the tether holds them: one operating-system thread whose root and mount
// namespace are the container's and whose children begin in the container's PID namespace, the first of them as its
// PID 1. So a path looked up in the Space cannot leave the container's root, whatever links an image holds, and a
// process is started in it by one fork and one exec, with no helper in between.
//
// Its methods may be called by several goroutines, at any time.
type Space struct {
	calls chan call
	leave func()        // closes left, once
	left  chan struct{} // closed: no call is taken any more
	done  chan struct{} // closed when the last thread has left
	home  int           // mount namespace of the tether
	proc  int           // directory of the tether's /proc
}

// call is what a Space is asked for.
type call struct {
	f      func() error
	last   bool // another thread takes over behind it
	result chan<- error
}

// NewSpace makes the namespaces and calls stage in them, which mounts what the container needs before it has a root; /proc is mounted
// when the container's PID 1 exists. What the tether mounts later on is seen in the Space, not the other way round, if its own mounts
// are shared. Needs CAP_SYS_ADMIN.
func NewSpace(stage func() error) (*Space, error) {
	home, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open mount namespace: %w", err)
	}
	proc, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		_ = unix.Close(home)
		return nil, fmt.Errorf("cannot open /proc of the machine: %w", err)
	}
	s := &Space{calls: make(chan call), left: make(chan struct{}), done: make(chan struct{}), home: home, proc: proc}
	s.leave = sync.OnceFunc(func() { close(s.left) })
	go s.run()
	err = s.Do(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWPID); err != nil {
			return fmt.Errorf("cannot make namespaces of the container: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			return fmt.Errorf("cannot keep mounts of the container from the machine: %w", err)
		}
		return stage()
	})
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// run owns the thread. It is never given back to the runtime, which therefore never clones another thread from it.
func (s *Space) run() {
	runtime.LockOSThread()
	s.serve()
}

// serve takes calls on the calling thread until the Space ends or another thread has taken over.
func (s *Space) serve() {
	for {
		select {
		case c := <-s.calls:
			err := guarded(c.f)
			if !c.last {
				c.result <- err
				continue
			}
			over := s.handOver()
			if over != nil && err == nil {
				err = over
			}
			c.result <- err
			if over == nil {
				s.goHome()
				return
			}
		case <-s.left:
			s.goHome()
			_ = unix.Close(s.home)
			_ = unix.Close(s.proc)
			close(s.done)
			return
		}
	}
}

// goHome leaves the container's mount namespace. That, not the thread's end, lets go of the mounts: the thread may be the process's
// first one, which stays as a zombie.
func (s *Space) goHome() { _ = unix.Setns(s.home, unix.CLONE_NEWNS) }

// handOver makes a fresh thread what the calling one is, which is of no use afterwards. When it fails the calling thread goes on.
func (s *Space) handOver() error {
	var seat seat
	err := seat.take(s.proc)
	defer seat.close()
	if err != nil {
		return fmt.Errorf("cannot hand over the container's namespaces: %w", err)
	}
	entered := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends here, or is the Space's
		err := seat.enter()
		entered <- err
		if err == nil {
			s.serve()
		}
	}()
	if err := <-entered; err != nil {
		return fmt.Errorf("cannot enter the container's namespaces: %w", err)
	}
	return nil
}

// seat is a Space's place in the container, as descriptors.
type seat struct{ mounts, pids, root int }

// take opens the place of the calling thread. proc is the tether's /proc. The container's PID namespace has a name as soon as it has a PID 1.
func (p *seat) take(proc int) (err error) {
	*p = seat{-1, -1, -1}
	if p.mounts, err = unix.Openat(proc, "thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	if p.pids, err = unix.Openat(proc, "thread-self/ns/pid_for_children", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	p.root, err = unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return err
}

// enter gives the calling thread that place.
func (p *seat) enter() error {
	return firstError(
		func() error { return unix.Unshare(unix.CLONE_FS) }, // setns(2): who changes the mount namespace shares no root
		func() error { return unix.Setns(p.mounts, unix.CLONE_NEWNS) },
		func() error { return unix.Setns(p.pids, unix.CLONE_NEWPID) },
		func() error { return unix.Fchdir(p.root) },
		func() error { return unix.Chroot(".") },
	)
}

func firstError(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (p *seat) close() {
	for _, fd := range []int{p.mounts, p.pids, p.root} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// Do calls f in the container's namespaces and root. Calls run one after the other. f must not wait for anything that
// the container can delay without limit. The error is f's, or ErrEnded after Close. A panic of f is an error: it works on
// what an image holds, and PID 1 must not end by that.
func (s *Space) Do(f func() error) error { return s.do(call{f: f}) }

// DoOnce calls f as Do does, on a thread that makes no other call afterwards: f may change what a thread cannot get back, such as the
// capabilities of its children. There must be a PID 1 of the container behind it, or there can be none any more.
func (s *Space) DoOnce(f func() error) error { return s.do(call{f: f, last: true}) }

func (s *Space) do(c call) error {
	result := make(chan error, 1)
	c.result = result
	select {
	case s.calls <- c:
		return <-result
	case <-s.left:
		return ErrEnded
	}
}

func guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the tether is broken: %v\n%s", p, debug.Stack())
		}
	}()
	return f()
}

// Close leaves the namespaces, once. The kernel ends the mounts with the last process in them.
func (s *Space) Close() {
	s.leave()
	select {
	case <-s.done:
	case <-time.After(leaveWait):
	}
}
