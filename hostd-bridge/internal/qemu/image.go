package qemu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/hostd-bridge/internal/plainfile"
	"github.com/containervm/containervm/hostd-bridge/internal/supervisor"
)

// maxLevels bounds how many files a disk consists of: each takes two descriptors and memory of its machine.
const maxLevels = 1000

// openBelow opens a regular file of the datastore. No link is followed on the way: what lies there, clients and machines have put there.
func (h *Hypervisor) openBelow(path string, flag int) (*os.File, error) {
	rel, err := filepath.Rel(h.config.Datastore, path)
	if err != nil || !filepath.IsLocal(rel) {
		return nil, fmt.Errorf("cannot open %s: it is not in the datastore", path)
	}
	root, err := unix.Open(h.config.Datastore, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the datastore: %w", err)
	}
	defer unix.Close(root)
	how := unix.OpenHow{
		Flags:   uint64(flag | plainfile.Safe),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	fd, err := unix.Openat2(root, rel, &how)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return plainfile.Check(os.NewFile(uintptr(fd), path), nil)
}

// image opens the files that a disk consists of, in the order in which they lie over each other. Each header is checked, and says which file is
// the next one; the disk's own must say parent, unless that is empty. The caller closes the image.
func (h *Hypervisor) image(path, parent string, readOnly bool) (_ supervisor.Image, err error) {
	var files []*os.File
	defer func() {
		if err != nil {
			supervisor.NewImage(path, files...).Close()
			err = fmt.Errorf("cannot use disk %s: %w", path, err)
		}
	}()
	flag := os.O_RDWR
	if readOnly {
		flag = os.O_RDONLY
	}
	for at := path; at != ""; flag = os.O_RDONLY {
		if len(files) == maxLevels {
			return supervisor.Image{}, fmt.Errorf("it consists of more than %d files", maxLevels)
		}
		f, below, err := h.level(at, flag)
		if err != nil {
			return supervisor.Image{}, err
		}
		files = append(files, f)
		if len(files) == 1 && parent != "" && below != filepath.Clean(parent) {
			return supervisor.Image{}, fmt.Errorf("it says that it is a delta of %q, and is to be one of %s: it was changed by its machine or by hand", below, parent)
		}
		at = below
	}
	return supervisor.NewImage(path, files...), nil
}

// level opens a file of a disk, and returns the path of the one that it is a delta of, or "".
func (h *Hypervisor) level(path string, flag int) (_ *os.File, below string, err error) {
	f, err := h.openBelow(path, flag)
	if err != nil {
		return nil, "", err
	}
	header, err := parseHeader(f)
	if err != nil {
		f.Close()
		return nil, "", fmt.Errorf("%s: %w", path, err)
	}
	return f, parentOf(path, header.backing), nil
}

// parentOf is the path of the parent that a disk's header names.
func parentOf(path, backing string) string {
	if backing == "" || filepath.IsAbs(backing) {
		return backing
	}
	return filepath.Join(filepath.Dir(path), backing)
}

// delta opens the one file of a disk that is about to be put over another.
func (h *Hypervisor) delta(path string) (supervisor.Image, error) {
	f, _, err := h.level(path, os.O_RDWR)
	if err != nil {
		return supervisor.Image{}, fmt.Errorf("cannot use delta %s: %w", path, err)
	}
	return supervisor.NewImage(path, f), nil
}

// openBoot opens a kernel or an initramfs. QEMU opens it once more, by its descriptor and as a user of its own, so one that others cannot
// read is copied.
func (h *Hypervisor) openBoot(path string) (*os.File, error) {
	f, err := h.openBelow(path, os.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("cannot boot %s: %w", path, err)
	}
	info, err := f.Stat()
	if err == nil && info.Mode()&0o004 != 0 {
		return f, nil
	}
	defer f.Close()
	if err != nil {
		return nil, err
	}
	if info.Size() > maxBootFile {
		return nil, fmt.Errorf("cannot boot %s: it has %d bytes, the limit is %d", path, info.Size(), maxBootFile)
	}
	fd, err := unix.MemfdCreate("boot", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("cannot boot %s: %w", path, err)
	}
	copied := os.NewFile(uintptr(fd), path)
	_, err = copied.ReadFrom(f)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot boot %s: %w", path, err), copied.Close())
	}
	return copied, nil
}

// maxBootFile bounds a kernel or an initramfs that is copied into memory, in bytes.
const maxBootFile = 1 << 30
