package rootfs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// WaitSerial finds the disk with a serial number, waiting for the kernel to find it until ctx ends: it may be plugged in just now.
func WaitSerial(ctx context.Context, serial string) (Disk, error) {
	// The socket is opened before the disks are listed, so that no announcement is missed in between.
	events, err := listenUevents()
	if err != nil {
		return Disk{}, err
	}
	defer unix.Close(events)
	for {
		name, err := findSerial("/sys/block", serial)
		if err != nil {
			return Disk{}, err
		}
		if name != "" {
			return Disk{Path: "/dev/" + name}, nil
		}
		if err := waitUevent(ctx, events); err != nil {
			return Disk{}, fmt.Errorf("cannot find the disk with serial number %q: %w", serial, err)
		}
	}
}

// findSerial is the name of the disk, "" if there is none.
func findSerial(dir, serial string) (string, error) {
	names, err := listDisks(dir)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		disk := filepath.Join(dir, name)
		if serialOf(disk) == serial || unitOf(disk) == serial {
			return name, nil
		}
	}
	return "", nil
}

// serialOf reads the serial number of virtio's disks, and the unit serial number page (SPC-3, 7.6.10) of those on SCSI: four bytes,
// the second of which says which page it is and the last two its length, and the number, which may have blanks around it.
func serialOf(disk string) string {
	if text, err := os.ReadFile(disk + "/serial"); err == nil {
		return strings.TrimSpace(string(text))
	}
	page, err := os.ReadFile(disk + "/device/vpd_pg80")
	if err != nil || len(page) < 4 || page[1] != 0x80 {
		return ""
	}
	length := int(page[2])<<8 | int(page[3])
	return strings.TrimSpace(string(page[4:min(len(page), 4+length)]))
}

// unitOf is what the serial number would be of a disk of vSphere's, which has none that a client may choose: its unit number is the
// target of its SCSI address.
func unitOf(disk string) string {
	vendor, err := os.ReadFile(disk + "/device/vendor")
	if err != nil || strings.TrimSpace(string(vendor)) != "VMware" {
		return ""
	}
	target, err := os.Readlink(disk + "/device")
	if err != nil {
		return ""
	}
	address := strings.Split(filepath.Base(target), ":") // host, channel, target, LUN
	if len(address) != 4 {
		return ""
	}
	return "vol" + address[2]
}

// ReadOnly reports whether the disk can only be read.
func (d Disk) ReadOnly() (readOnly bool, err error) {
	err = d.ask(func(fd int) error {
		n, err := unix.IoctlGetInt(fd, unix.BLKROGET)
		readOnly = n != 0
		return err
	})
	return readOnly, err
}

// Bytes is the disk's size.
func (d Disk) Bytes() (bytes uint64, err error) {
	err = d.ask(func(fd int) error {
		n, err := unix.Seek(fd, 0, unix.SEEK_END)
		bytes = uint64(n)
		return err
	})
	return bytes, err
}

func (d Disk) ask(f func(fd int) error) error {
	fd, err := unix.Open(d.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fd)
		err = f(fd)
	}
	if err != nil {
		return fmt.Errorf("cannot look at disk %s: %w", d.Path, err)
	}
	return nil
}
