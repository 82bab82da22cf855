package rootfs

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Devices are device files, by path.
type Devices map[string]device

type device struct {
	mode uint32 // type and permissions
	dev  uint64
}

// FindDevices lists the device files below /dev of the calling thread's root. Those of terminals are left out: each container has its own.
func FindDevices() (Devices, error) {
	all := Devices{}
	err := filepath.WalkDir("/dev", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.Type()&fs.ModeDevice == 0 || terminal(path) {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return nil // it has gone
		}
		if is, ok := info.Sys().(*syscall.Stat_t); ok {
			all[path] = device{mode: is.Mode, dev: is.Rdev}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list the machine's devices: %w", err)
	}
	return all, nil
}

func terminal(path string) bool {
	return path == "/dev/console" || path == "/dev/tty" || strings.HasPrefix(path, "/dev/pts/") || strings.HasPrefix(path, "/dev/ptmx")
}

// Make makes those that are missing in the calling thread's root, which is a container's.
func (d Devices) Make() error {
	for path, is := range d {
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			if err = unix.Mknod(path, is.mode, int(is.dev)); os.IsExist(err) {
				continue
			}
		}
		if err == nil {
			err = unix.Chmod(path, is.mode&0o7777) // past the umask
		}
		if err != nil {
			return fmt.Errorf("cannot make %s in the container: %w", path, err)
		}
	}
	return nil
}
