package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Errors of processes that stand.
var (
	// ErrNoCgroup says that processes cannot be held, counted or limited: they have no cgroup of their own.
	ErrNoCgroup = errors.New("the container's processes have no cgroup of their own")
	// ErrPaused says that nothing can be started, since the processes are paused.
	ErrPaused = errors.New("the container is paused")
	// ErrForked says that a start that waited for the end of a hold was one of the machine's source.
	ErrForked = errors.New("the machine has become a fork: the process is its source's")
)

// Why is why processes stand where they are. They go on when no reason is left.
type Why uint

const (
	// Held is for a fork. What is to be started waits for its end.
	Held Why = 1 << iota
	// Paused is for as long as a user wants it. Nothing can be started.
	Paused
)

// standing is whether a container's processes stand, and how many starts are on their way: a process that is stopped before it has
// executed its program would hold up the Space. Container.mu guards it.
type standing struct {
	why     Why
	forks   int        // of the machine, so far
	starts  int        // on their way
	changed *sync.Cond // of Container.mu
}

// Freeze stops all processes of the container and returns when they stand: cgroup.freeze of Documentation/admin-guide/cgroup-v2.rst.
// It waits for starts that are on their way, and lets no other begin. When it fails they go on, unless there is another reason.
func (c *Container) Freeze(ctx context.Context, why Why) error {
	if c.cgroup == nil {
		return ErrNoCgroup
	}
	events, err := c.cgroupFile("cgroup.events", unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer events.Close()
	c.freezing.Lock()
	defer c.freezing.Unlock()
	if err = c.quiesce(ctx, why); err == nil {
		err = c.setFrozen("1")
	}
	if err == nil {
		err = awaitFrozen(ctx, events)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot stop the container's processes: %w", err), c.thaw(why))
	}
	return nil
}

// quiesce lets no start begin, and waits for those that are on their way.
func (c *Container) quiesce(ctx context.Context, why Why) error {
	defer context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.standing.changed.Broadcast()
	})()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.standing.why |= why
	c.standing.changed.Broadcast()
	for c.standing.starts > 0 {
		if ctx.Err() != nil {
			return fmt.Errorf("a process that is being started does not run: %w", context.Cause(ctx))
		}
		c.standing.changed.Wait()
	}
	return nil
}

// Thaw lets the processes go on if there is no other reason for them to stand.
func (c *Container) Thaw(why Why) error {
	if c.cgroup == nil {
		return ErrNoCgroup
	}
	c.freezing.Lock()
	defer c.freezing.Unlock()
	return c.thaw(why)
}

// thaw is Thaw with freezing locked.
func (c *Container) thaw(why Why) error {
	c.mu.Lock()
	c.standing.why &^= why
	left := c.standing.why
	c.standing.changed.Broadcast()
	c.mu.Unlock()
	if left != 0 {
		return nil
	}
	return c.setFrozen("0")
}

// Stands reports whether the processes stand for a reason.
func (c *Container) Stands(why Why) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.standing.why&why != 0
}

// Forked says that the machine has become a fork: what its source has still to start is not started here.
func (c *Container) Forked() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.standing.forks++
	c.standing.changed.Broadcast()
}

// beginStart waits while the processes are held, which has an end. Without an error endStart must be called.
func (c *Container) beginStart() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	forks := c.standing.forks
	for c.standing.why != 0 {
		if c.standing.why&Paused != 0 {
			return ErrPaused
		}
		c.standing.changed.Wait()
		if c.standing.forks != forks {
			return ErrForked
		}
	}
	c.standing.starts++
	return nil
}

func (c *Container) endStart() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.standing.starts--
	c.standing.changed.Broadcast()
}

func (c *Container) setFrozen(value string) error { return writeAt(c.cgroup, "cgroup.freeze", value) }

// CgroupFile opens a file of the container's cgroup for reading.
func (c *Container) CgroupFile(name string) (*os.File, error) {
	if c.cgroup == nil {
		return nil, ErrNoCgroup
	}
	return c.cgroupFile(name, unix.O_RDONLY)
}

// cgroupFile opens a file of the container's cgroup by its directory: no path of the container is involved.
func (c *Container) cgroupFile(name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(c.cgroup.Fd()), name, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// freezePoll is how long one wait for a change of cgroup.events lasts, in milliseconds; a change ends it at once.
const freezePoll = 100

func awaitFrozen(ctx context.Context, events *os.File) error {
	for {
		if _, err := events.Seek(0, io.SeekStart); err != nil {
			return err
		}
		text, err := io.ReadAll(io.LimitReader(events, 4<<10))
		if err != nil {
			return err
		}
		if strings.Contains("\n"+string(text), "\nfrozen 1\n") {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}, freezePoll)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Do calls f in the container's namespaces and root, as Space.Do.
func (c *Container) Do(f func() error) error { return c.space.Do(f) }
