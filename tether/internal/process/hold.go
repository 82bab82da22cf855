package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNoCgroup says that processes cannot be held: they have no cgroup of their own.
var ErrNoCgroup = errors.New("the container's processes have no cgroup of their own")

// Freeze stops all processes of the container and returns when they stand: cgroup.freeze of Documentation/admin-guide/cgroup-v2.rst.
// When it fails they go on.
func (c *Container) Freeze(ctx context.Context) error {
	if c.cgroup == nil {
		return ErrNoCgroup
	}
	events, err := c.cgroupFile("cgroup.events", unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer events.Close()
	if err := c.setFrozen("1"); err != nil {
		return err
	}
	if err := awaitFrozen(ctx, events); err != nil {
		return errors.Join(fmt.Errorf("cannot stop the container's processes: %w", err), c.Thaw())
	}
	return nil
}

// Thaw lets the processes go on.
func (c *Container) Thaw() error {
	if c.cgroup == nil {
		return ErrNoCgroup
	}
	return c.setFrozen("0")
}

func (c *Container) setFrozen(value string) error {
	f, err := c.cgroupFile("cgroup.freeze", unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(value)
	return err
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
