// Package boot holds what PID 1 does first and last: the early file systems, the kernel's command line, power-off.
package boot

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Mount is a file system to mount.
type Mount struct {
	Source, Target, Type string
	Flags                uintptr
	Data                 string
}

func (m Mount) String() string { return fmt.Sprintf("%s on %s", m.Type, m.Target) }

// Create makes the directory if it is missing and mounts the file system.
func (m Mount) Create() error {
	if err := os.MkdirAll(m.Target, 0o755); err != nil {
		return fmt.Errorf("cannot mount %s: %w", m, err)
	}
	if err := unix.Mount(m.Source, m.Target, m.Type, m.Flags, m.Data); err != nil {
		return fmt.Errorf("cannot mount %s: %w", m, err)
	}
	return nil
}

// Covers is where files are that lie over those of the container (rootfs.Covers), which can write to them: several times as large as a Spec.
const Covers = "/covers"

// Early is what the tether itself needs of the kernel; the container has its own.
func Early() []Mount {
	const plain = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV
	return []Mount{
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0755"},
		{"proc", "/proc", "proc", plain, ""},
		{"sysfs", "/sys", "sysfs", plain, ""},
		{"tmpfs", Covers, "tmpfs", plain, "mode=700,size=4096k"},
	}
}
