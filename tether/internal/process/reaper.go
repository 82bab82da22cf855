package process

import (
	"errors"
	"sync"

	"golang.org/x/sys/unix"
)

// Reaper is the only waiter for children of this program. One goroutine runs Run.
type Reaper struct {
	wake chan struct{} // capacity 1: there may be a child

	mu       sync.Mutex
	children map[int]*child
	starting int                       // calls of start between fork and registration
	early    map[int][]unix.WaitStatus // what happened to unknown children while starting > 0
}

// child is a process that start has registered.
type child struct {
	pid    int
	events chan unix.WaitStatus // at most one trace stop, then the end; never blocks the reaper
}

// NewReaper returns a reaper that knows no child.
func NewReaper() *Reaper {
	return &Reaper{
		wake:     make(chan struct{}, 1),
		children: map[int]*child{},
		early:    map[int][]unix.WaitStatus{},
	}
}

// Run reaps children, those given to it by the kernel as well, for as long as the program lives.
func (r *Reaper) Run() {
	for {
		// WNOWAIT leaves the child a zombie until the lock is held: so a PID that is signalled is never one that the
		// kernel has given to another process meanwhile.
		err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOWAIT, nil)
		switch {
		case err == nil:
			r.reap()
		case errors.Is(err, unix.ECHILD):
			<-r.wake
		}
	}
}

func (r *Reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if pid <= 0 || err != nil {
			return
		}
		r.deliver(pid, ws)
	}
}

func (r *Reaper) deliver(pid int, ws unix.WaitStatus) {
	c, known := r.children[pid]
	switch {
	case known:
		c.events <- ws
		if !ws.Stopped() {
			delete(r.children, pid)
		}
	case r.starting > 0:
		r.early[pid] = append(r.early[pid], ws)
	}
}

// start calls fork and registers the child that it makes. The lock is not held across the fork: that lasts until the child's exec,
// which a file system of the container can delay without limit. Events of a child that is not registered yet are kept.
func (r *Reaper) start(fork func() (pid int, err error)) (*child, error) {
	r.mu.Lock()
	r.starting++
	r.mu.Unlock()

	pid, err := fork()

	r.mu.Lock()
	defer r.mu.Unlock()
	r.starting--
	defer func() {
		if r.starting == 0 {
			clear(r.early)
		}
	}()
	if err != nil {
		return nil, err
	}
	c := &child{pid: pid, events: make(chan unix.WaitStatus, 2)}
	r.children[pid] = c
	for _, ws := range r.early[pid] {
		r.deliver(pid, ws)
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return c, nil
}

// signal sends sig to the child unless it has ended. It returns unix.ESRCH when it has.
func (r *Reaper) signal(c *child, sig unix.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.children[c.pid] != c {
		return unix.ESRCH
	}
	return unix.Kill(c.pid, sig)
}
