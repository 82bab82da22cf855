package process

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Covers are paths of the container that are not to be seen, or not to be changed. Those that do not exist are left out.
type Covers struct {
	Masked   []string // something empty lies over them
	ReadOnly []string // they are mounted read-only, with what is mounted below them
}

// mount covers the paths in the root of the calling thread, links followed within it.
func (c Covers) mount() error {
	for _, path := range c.ReadOnly {
		if err := coverReadOnly(path); err != nil && !absent(err) {
			return fmt.Errorf("cannot make %s of the container read-only: %w", path, err)
		}
	}
	for _, path := range c.Masked {
		if err := mask(path); err != nil && !absent(err) {
			return fmt.Errorf("cannot mask %s of the container: %w", path, err)
		}
	}
	return nil
}

func absent(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) }

// mask lays /dev/null over a file, and an empty directory over a directory.
func mask(path string) error {
	var is unix.Stat_t
	if err := unix.Stat(path, &is); err != nil {
		return err
	}
	if is.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.Mount("tmpfs", path, "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=0k,mode=755")
	}
	return unix.Mount("/dev/null", path, "", unix.MS_BIND, "")
}

func coverReadOnly(path string) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	if err != nil {
		return err
	}
	return unix.MoveMount(fd, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS)
}
