package mounts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/internal/rootfs"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// volume mounts a volume, unless it is mounted for another target, grows and fills it, and returns the directory of it that is asked for.
func (s *Set) volume(ctx context.Context, m *tetherv1.Mount, v *tetherv1.Volume) (string, error) {
	if v.GetSerial() == "" {
		return "", errors.New("it has no serial number")
	}
	at, err := s.place(ctx, v.Serial)
	if err != nil {
		return "", err
	}
	if !m.ReadOnly && at.readOnly {
		return "", errors.New("its disk can only be read here, and is to be mounted for writing")
	}
	if !m.ReadOnly {
		if err := s.fill(at.dir, m.Target, v.CopyUp && v.Subpath == ""); err != nil {
			return "", fmt.Errorf("cannot copy what the image has there: %w", err)
		}
	}
	return within(at.dir, v.Subpath)
}

// place is where the volume is mounted, for another target or just now.
func (s *Set) place(ctx context.Context, serial string) (place, error) {
	for _, p := range s.places {
		if p.serial == serial {
			return p, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, diskWait)
	defer cancel()
	disk, err := rootfs.WaitSerial(ctx, serial)
	if err != nil {
		return place{}, err
	}
	return s.mountVolume(disk, serial)
}

// mountVolume mounts a disk. One that the host gives out read-only may be in use elsewhere at the same time: its journal is left alone.
func (s *Set) mountVolume(disk rootfs.Disk, serial string) (at place, err error) {
	at.serial = serial
	if at.dir, err = s.newPlace(); err != nil {
		return at, err
	}
	if at.readOnly, err = disk.ReadOnly(); err != nil {
		return at, err
	}
	flags, options := uintptr(0), rootfs.DurableOptions
	if at.readOnly {
		flags, options = unix.MS_RDONLY, rootfs.DurableOptions+",noload"
	}
	if err := disk.Mount(at.dir, flags, options); err != nil {
		return at, err
	}
	s.places = append(s.places, at)
	if at.readOnly {
		return at, nil
	}
	bytes, err := disk.Bytes()
	if err == nil {
		err = grow(at.dir, bytes)
	}
	return at, err
}

// extResize is EXT4_IOC_RESIZE_FS (Linux, include/uapi/linux/ext4.h): _IOW('f', 16, __u64).
const extResize = 0x40086610

// grow makes the ext4 that is mounted on dir as large as its disk, in bytes. Of one that is as large already nothing is changed.
func grow(dir string, bytes uint64) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return err
	}
	blocks := bytes / uint64(fs.Bsize)
	if fs.Type != unix.EXT4_SUPER_MAGIC {
		return nil
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), extResize, uintptr(unsafe.Pointer(&blocks))); errno != 0 {
		return fmt.Errorf("cannot grow its file system to %d bytes: %w", bytes, errno)
	}
	return nil
}

// within is the path of what lies at name below dir, whatever links there are.
func within(dir, name string) (string, error) {
	if name == "" {
		return dir, nil
	}
	fd, err := openWithin(dir, name)
	if err != nil {
		return "", fmt.Errorf("subpath %q: %w", name, err)
	}
	defer unix.Close(fd)
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// openWithin opens name below dir as if dir were the root.
func openWithin(dir, name string) (int, error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	return unix.Openat2(root, name, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
}
