package process

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Space is the container's namespaces as the tether holds them: one operating-system thread whose root and mount
// namespace are the container's and whose children are born in the container's PID namespace, the first of them as its
// PID 1. So a path looked up in the Space cannot leave the container's root, whatever links an image holds, and a
// process is started in it by one fork and one exec, with no helper in between.
type Space struct {
	calls chan func()
	done  chan struct{}
	home  int // mount namespace of the tether
}

// NewSpace makes the namespaces and calls enter in them, which mounts what the container needs and changes the
// thread's root; /proc is mounted when the container's PID 1 exists. Needs CAP_SYS_ADMIN.
func NewSpace(enter func() error) (*Space, error) {
	home, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open mount namespace: %w", err)
	}
	s := &Space{calls: make(chan func()), done: make(chan struct{}), home: home}
	go s.run()
	err = s.Do(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWPID); err != nil {
			return fmt.Errorf("cannot make namespaces of the container: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("cannot make mounts private: %w", err)
		}
		return enter()
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
	for call := range s.calls {
		call()
	}
	// Leaving the mount namespace, not ending the thread, lets go of the mounts: the thread may be the process's first
	// one, which stays as a zombie.
	_ = unix.Setns(s.home, unix.CLONE_NEWNS)
	_ = unix.Close(s.home)
}

// Do calls f in the container's namespaces and root. Calls run one after the other. f must not wait for anything that
// the container can delay without limit.
func (s *Space) Do(f func() error) error {
	result := make(chan error, 1)
	s.calls <- func() { result <- f() }
	return <-result
}

// Close leaves the namespaces. The kernel ends the mounts with the last process in them. Do must not be called again.
func (s *Space) Close() {
	close(s.calls)
	<-s.done
}
