package unpack

import (
	"archive/tar"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// specialBits are those of a mode that making a file or directory does not set, or that chown clears.
const specialBits = unix.S_ISUID | unix.S_ISGID | unix.S_ISVTX

// paxXattr is what PAX records of extended attributes begin with, from star and used by the image specification.
const paxXattr = "SCHILY.xattr."

// permissions is the mode without its type; tar's bits are the kernel's.
func (e entry) permissions() uint32 { return uint32(e.Mode) & 0o7777 }

// checkOwner refuses what chown would take for "unchanged", or cut.
func checkOwner(h *tar.Header) error {
	for _, id := range []int{h.Uid, h.Gid} {
		if id < 0 || id >= math.MaxUint32 {
			return fmt.Errorf("%w: owner %d:%d", ErrUnsupported, h.Uid, h.Gid)
		}
	}
	return nil
}

// owned reports whether what was made just now belongs to whom it should: it is root's, unless its directory gave it a group.
func (e entry) owned() bool { return e.Uid == 0 && e.Gid == 0 && !e.parent.setgid }

// setFileMeta sets owner, mode, attributes and times of a file that was made just now with its mode, in an order in
// which none undoes another: chown clears setuid bits and capabilities, and all change the ctime alone.
func (e entry) setFileMeta(fd int) error {
	if !e.owned() {
		if err := unix.Fchown(fd, e.Uid, e.Gid); err != nil {
			return fmt.Errorf("cannot set owner: %w", err)
		}
	}
	if e.permissions()&specialBits != 0 {
		if err := unix.Fchmod(fd, e.permissions()); err != nil {
			return fmt.Errorf("cannot set mode: %w", err)
		}
	}
	err := e.eachXattr(func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) })
	if err != nil {
		return err
	}
	// By the descriptor: without a look-up. The unix package has no call for a path that is null.
	ts := times(e.Header)
	if _, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0); errno != 0 {
		return fmt.Errorf("cannot set times: %w", errno)
	}
	return nil
}

// setDirMeta sets owner, mode and attributes of a directory. One that was there before, old, may have any.
func (e entry) setDirMeta(old bool) error {
	if old || !e.owned() {
		if err := e.chown(); err != nil {
			return err
		}
	}
	if old || e.permissions()&specialBits != 0 || e.parent.setgid {
		if err := e.chmod(); err != nil {
			return err
		}
	}
	return e.setXattrs()
}

// setMeta sets all there is to set of links, devices and pipes.
func (e entry) setMeta() error {
	if !e.owned() {
		if err := e.chown(); err != nil {
			return err
		}
	}
	if e.permissions()&specialBits != 0 && e.Typeflag != tar.TypeSymlink {
		if err := e.chmod(); err != nil {
			return err
		}
	}
	if err := e.setXattrs(); err != nil {
		return err
	}
	return e.setTimes()
}

func (e entry) chown() error {
	if err := unix.Fchownat(e.parent.fd, e.base, e.Uid, e.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("cannot set owner: %w", err)
	}
	return nil
}

// chmod follows links, as the kernel has no other kind; what it is called for was made or found to be none just now.
func (e entry) chmod() error {
	if err := unix.Fchmodat(e.parent.fd, e.base, e.permissions(), 0); err != nil {
		return fmt.Errorf("cannot set mode: %w", err)
	}
	return nil
}

// setXattrs goes by /proc, since only files that are open for reading or writing take attributes by their descriptor.
func (e entry) setXattrs() error {
	return e.eachXattr(func(name string, value []byte) error {
		return unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", e.parent.fd, e.base), name, value, 0)
	})
}

func (e entry) eachXattr(set func(name string, value []byte) error) error {
	for key, value := range e.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok {
			continue
		}
		if err := set(name, []byte(value)); err != nil && !e.optional(name, err) {
			return fmt.Errorf("cannot set attribute %.64q of %d bytes: %w", name, len(value), err)
		}
	}
	return nil
}

// optional reports whether an attribute may be left out: the file system knows no such, or the kernel allows
// user attributes on files and directories only (xattr(7)).
func (e entry) optional(name string, err error) bool {
	return errors.Is(err, unix.ENOTSUP) ||
		errors.Is(err, unix.EPERM) && strings.HasPrefix(name, "user.") && e.Typeflag != tar.TypeReg && e.Typeflag != tar.TypeDir
}

func (e entry) setTimes() error {
	return setTimes(e.parent.fd, e.base, times(e.Header))
}

func setTimes(dirfd int, base string, ts [2]unix.Timespec) error {
	if err := unix.UtimesNanoAt(dirfd, base, ts[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("cannot set times: %w", err)
	}
	return nil
}

// times are those of access and of modification; a layer that has only the latter means both.
func times(h *tar.Header) [2]unix.Timespec {
	access := h.AccessTime
	if access.IsZero() {
		access = h.ModTime
	}
	return [2]unix.Timespec{timespec(access), timespec(h.ModTime)}
}

func timespec(t time.Time) unix.Timespec {
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

// dirTimes are the times that a directory shall have in the end.
type dirTimes struct {
	name  string
	times [2]unix.Timespec
}

func (u *unpacker) deferTimes(e entry) {
	u.dirs = append(u.dirs, dirTimes{e.name, times(e.Header)})
}

// forgetDirs drops what was deferred for a name, and all below it, that is no more.
func (u *unpacker) forgetDirs(name string) {
	u.tree.forget()
	kept := u.dirs[:0]
	for _, d := range u.dirs {
		if d.name != name && !strings.HasPrefix(d.name, name+"/") {
			kept = append(kept, d)
		}
	}
	u.dirs = kept
}

// finishDirs sets the times of directories, in any order: setting them changes no other's.
func (u *unpacker) finishDirs() error {
	for _, d := range u.dirs {
		dirName, base := split(d.name)
		if base == "" {
			base = "."
		}
		parent, err := u.tree.dir(dirName)
		if err == nil {
			err = setTimes(parent.fd, base, d.times)
		}
		if err != nil {
			return &EntryError{Name: d.name, Err: err}
		}
	}
	return nil
}
