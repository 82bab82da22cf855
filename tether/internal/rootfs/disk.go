// Package rootfs finds and mounts the root disk and makes the container's root of it.
package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// FileSystem is what every root disk is formatted with.
const FileSystem = "ext4"

// DiskWait is how long the kernel may take to find a root disk that exists.
const DiskWait = 10 * time.Second

// Options of ext4, ext4(5). noinit_itable: the blank disk leaves its inode tables to be zeroed by the kernel in the background,
// which would fill every delta with them for nothing. no_prefetch_block_bitmaps: the bitmaps of 64 GiB are not read behind the back
// of a container that starts, by a thread that is made for it.
const (
	// DurableOptions are for a container's disk.
	DurableOptions = "noinit_itable,no_prefetch_block_bitmaps,errors=remount-ro"
	// ScratchOptions are for a disk that is thrown away when anything fails before its last sync. Blocks are allocated
	// when they are written back, whole files at a time: one by one it is what unpacking takes longest for.
	ScratchOptions = "noinit_itable,errors=remount-ro,nobarrier,data=writeback"
)

// Disk is a whole block device.
type Disk struct{ Path string }

// firstDisk is virtio's first disk, which comes before all others.
const firstDisk = "/dev/vda"

// WaitDisk finds the root disk, waiting for the kernel to find it until ctx ends.
func WaitDisk(ctx context.Context) (Disk, error) {
	if unix.Access(firstDisk, unix.F_OK) == nil {
		return Disk{Path: firstDisk}, nil
	}
	// The socket is opened before the disks are listed, so that no announcement is missed in between.
	events, err := listenUevents()
	if err != nil {
		return Disk{}, err
	}
	defer unix.Close(events)
	for {
		names, err := listDisks("/sys/block")
		if err != nil {
			return Disk{}, err
		}
		if len(names) > 0 {
			return Disk{Path: "/dev/" + names[0]}, nil
		}
		if err := waitUevent(ctx, events); err != nil {
			return Disk{}, fmt.Errorf("cannot find root disk: the machine has none: %w", err)
		}
	}
}

// listDisks returns the names of whole disks: virtio's first, then by name.
func listDisks(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot list disks: %w", err)
	}
	var names []string
	for _, kind := range []string{"vd", "sd", "nvme"} {
		for _, e := range entries { // sorted by name
			if strings.HasPrefix(e.Name(), kind) && !slices.Contains(names, e.Name()) {
				names = append(names, e.Name())
			}
		}
	}
	return names, nil
}

// listenUevents opens the kernel's announcements of devices: netlink(7), NETLINK_KOBJECT_UEVENT, group 1.
func listenUevents() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return -1, fmt.Errorf("cannot listen for devices: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("cannot listen for devices: %w", err)
	}
	return fd, nil
}

// waitUevent waits for any announcement.
func waitUevent(ctx context.Context, fd int) error {
	wait := time.Hour
	if deadline, ok := ctx.Deadline(); ok {
		wait = time.Until(deadline)
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(max(0, wait.Milliseconds())))
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	if err != nil {
		return err
	}
	if n == 0 {
		return os.ErrDeadlineExceeded
	}
	var message [8 << 10]byte
	_, _, err = unix.Recvfrom(fd, message[:], unix.MSG_DONTWAIT)
	if errors.Is(err, unix.ENOBUFS) { // there were more than the socket holds
		return nil
	}
	return err
}

// Reread forgets what the kernel has cached of the disk, whose content the host may have replaced.
func (d Disk) Reread() error {
	return d.with(func(fd int) error { return unix.IoctlSetInt(fd, unix.BLKFLSBUF, 0) }, "re-read")
}

// freePoll is the pause between two checks of AwaitFree.
const freePoll = time.Millisecond

// AwaitFree waits until no file system is mounted from the disk in any namespace: the kernel lets go of those of a namespace that
// has ended a little later.
func (d Disk) AwaitFree(ctx context.Context) error {
	for {
		fd, err := unix.Open(d.Path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0) // open(2): EBUSY while it is mounted
		if err == nil {
			return unix.Close(fd)
		}
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("cannot look at disk %s: %w", d.Path, err)
		}
		select {
		case <-time.After(freePoll):
		case <-ctx.Done():
			return fmt.Errorf("disk %s is still in use: %w", d.Path, context.Cause(ctx))
		}
	}
}

// Flush has the disk make all that was written durable.
func (d Disk) Flush() error { return d.with(unix.Fsync, "flush") }

func (d Disk) with(f func(fd int) error, doing string) error {
	fd, err := unix.Open(d.Path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fd)
		err = f(fd)
	}
	if err != nil {
		return fmt.Errorf("cannot %s disk %s: %w", doing, d.Path, err)
	}
	return nil
}

// Open opens the root of the disk's file system, read-only and without a look at its journal. It is mounted nowhere, and let go of when the
// descriptor and all that were opened by it are closed.
func (d Disk) Open() (fd int, err error) {
	fs, err := unix.Fsopen(FileSystem, unix.FSOPEN_CLOEXEC)
	if err == nil {
		defer unix.Close(fs)
		err = unix.FsconfigSetString(fs, "source", d.Path)
	}
	for _, option := range []string{"ro", "noload"} {
		if err == nil {
			err = unix.FsconfigSetFlag(fs, option)
		}
	}
	if err == nil {
		err = unix.FsconfigCreate(fs)
	}
	if err == nil {
		fd, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOATIME)
	}
	if err != nil {
		return -1, fmt.Errorf("cannot open the file system of disk %s: %w", d.Path, err)
	}
	return fd, nil
}

// Mount mounts the disk on dir, which is made if missing.
func (d Disk) Mount(dir string, flags uintptr, options string) error {
	err := unix.Mount(d.Path, dir, FileSystem, flags, options)
	if errors.Is(err, unix.ENOENT) { // of a template's child the directory is there
		if err = os.MkdirAll(filepath.Clean(dir), 0o755); err == nil {
			err = unix.Mount(d.Path, dir, FileSystem, flags, options)
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL): // ext4's word for a superblock that is none
		return fmt.Errorf("cannot mount root disk %s: it is empty or holds no %s file system: %w", d.Path, FileSystem, err)
	case errors.Is(err, unix.EUCLEAN), errors.Is(err, unix.EBADMSG):
		return fmt.Errorf("cannot mount root disk %s: its file system is damaged: %w", d.Path, err)
	default:
		return fmt.Errorf("cannot mount root disk %s: %w", d.Path, err)
	}
}
