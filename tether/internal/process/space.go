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
	calls chan func()
	leave func()        // closes left, once
	left  chan struct{} // closed: no call is taken any more
	done  chan struct{} // closed when run has ended
	home  int           // mount namespace of the tether
}

// NewSpace makes the namespaces and calls stage in them, which mounts what the container needs before it has a root; /proc is mounted
// when the container's PID 1 exists. What the tether mounts later on is seen in the Space, not the other way round, if its own mounts
// are shared. Needs CAP_SYS_ADMIN.
func NewSpace(stage func() error) (*Space, error) {
	home, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open mount namespace: %w", err)
	}
	s := &Space{calls: make(chan func()), left: make(chan struct{}), done: make(chan struct{}), home: home}
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
	defer close(s.done)
	for s.next() {
	}
	// Leaving the mount namespace, not ending the thread, lets go of the mounts: the thread may be the process's first
	// one, which stays as a zombie.
	_ = unix.Setns(s.home, unix.CLONE_NEWNS)
	_ = unix.Close(s.home)
}

func (s *Space) next() bool {
	select {
	case call := <-s.calls:
		call()
		return true
	case <-s.left:
		return false
	}
}

// Do calls f in the container's namespaces and root. Calls run one after the other. f must not wait for anything that
// the container can delay without limit. The error is f's, or ErrEnded after Close. A panic of f is an error: it works on
// what an image holds, and PID 1 must not end by that.
func (s *Space) Do(f func() error) error {
	result := make(chan error, 1)
	select {
	case s.calls <- func() { result <- guarded(f) }:
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
