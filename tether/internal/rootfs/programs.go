package rootfs

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// programs are files of the machine's own root on their way into the container's: detached mounts by their target.
type programs map[string]int

// openPrograms takes the files while they can be named.
func (r Root) openPrograms() (programs, error) {
	p := programs{}
	for source, target := range r.Programs {
		fd, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			p.close()
			return nil, fmt.Errorf("cannot open %s for the container: %w", source, err)
		}
		p[target] = fd
	}
	return p, nil
}

func (p programs) close() {
	for _, fd := range p {
		_ = unix.Close(fd)
	}
}

// mount makes directories and puts the files into them, below staging.
func (p programs) mount(staging string, directories []string) error {
	for _, dir := range directories {
		if err := os.Mkdir(staging+dir, 0o755); err != nil {
			return err
		}
	}
	for name, fd := range p {
		target := staging + name
		if err := unix.Mknod(target, unix.S_IFREG|0o555, 0); err != nil {
			return fmt.Errorf("%s: %w", target, err)
		}
		err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
		if err == nil {
			err = unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", target, err)
		}
	}
	return nil
}
