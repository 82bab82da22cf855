package process

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Group is a part of the container's processes that can be ended as one, with all that they have started: a cgroup below theirs. They stand
// and count with the others.
type Group struct{ dir *os.File }

// NewGroup finds or makes the group with a name. It must be closed, which leaves its processes alone.
func (c *Container) NewGroup(name string) (*Group, error) {
	if c.cgroup == nil {
		return nil, ErrNoCgroup
	}
	if err := unix.Mkdirat(int(c.cgroup.Fd()), name, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("cannot make cgroup %s: %w", name, err)
	}
	dir, err := c.cgroupFile(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	return &Group{dir: dir}, err
}

// NewGroupBeside makes a group that does not stand with the container's processes. It has a limit of its own of processes and threads, and the
// container's of memory.
func (c *Container) NewGroupBeside(name string) (*Group, error) {
	if c.cgroup == nil {
		return nil, ErrNoCgroup
	}
	name = "../" + name
	if err := unix.Mkdirat(int(c.cgroup.Fd()), name, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("cannot make cgroup %s: %w", name, err)
	}
	dir, err := c.cgroupFile(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	g := &Group{dir: dir}
	err = writeAt(dir, "pids.max", maxBeside)
	if limit, failed := c.CgroupFile("memory.max"); failed == nil {
		text, failed := io.ReadAll(io.LimitReader(limit, 64))
		err = errors.Join(err, failed, limit.Close(), writeAt(dir, "memory.max", string(text)))
	}
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// maxBeside is how many processes and threads a group beside the container may have.
const maxBeside = "256"

// Kill ends all processes of the group by SIGKILL: cgroup.kill of Documentation/admin-guide/cgroup-v2.rst.
func (g *Group) Kill() error { return writeAt(g.dir, "cgroup.kill", "1") }

// Close lets go of the group.
func (g *Group) Close() error { return g.dir.Close() }

// writeAt writes a value to a file of a cgroup whose directory is open.
func writeAt(dir *os.File, name, value string) error {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("cannot open %s: %w", name, err)
	}
	file := os.NewFile(uintptr(fd), name)
	_, err = file.WriteString(value)
	if failed := file.Close(); err == nil {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("cannot set %s to %q: %w", name, value, err)
	}
	return nil
}
