package mounts

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// marker is the name of a directory of a volume that is being filled. It is made before anything is copied and removed when all of it is on
// the disk, so what a volume with it holds is a part of a copy, made before any process of the user's saw it: it is thrown away.
const marker = ".cvm-copy-up"

// lostFound is ext4's own directory: a volume with it alone is empty.
const lostFound = "lost+found"

// fill throws away what a copy that was broken off has left, and copies what the image has at target while the volume is empty.
func (s *Set) fill(volume, target string, copyUp bool) error {
	names, err := list(volume)
	if err != nil {
		return err
	}
	begun, empty := false, true
	for _, name := range names {
		switch name {
		case marker:
			begun = true
		case lostFound:
		default:
			empty = false
		}
	}
	if begun {
		if err := wipe(volume, names); err != nil {
			return err
		}
		empty = true
	}
	if !empty || !copyUp {
		return nil
	}
	source, err := openWithin(s.Image, target)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil // the image has nothing there
	}
	if err != nil {
		return err
	}
	defer unix.Close(source)
	return copyInto(source, volume)
}

func list(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// wipe empties the volume, the marker last.
func wipe(volume string, names []string) error {
	for _, name := range names {
		if name == marker {
			continue
		}
		if err := os.RemoveAll(volume + "/" + name); err != nil {
			return err
		}
	}
	return finish(volume)
}

// finish removes the marker once all else is on the disk. The removal itself may be lost with a machine: the copy is made anew then.
func finish(volume string) error {
	if err := syncTree(volume); err != nil {
		return err
	}
	if err := os.Remove(volume + "/" + marker); err != nil {
		return err
	}
	return syncTree(volume) // what a process writes from now on must not be taken for a part of the copy
}

func syncTree(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Syncfs(fd)
}

// copyInto copies the directory source into the volume, with its own owner, mode, times and attributes.
func copyInto(source int, volume string) error {
	var is unix.Stat_t
	if err := unix.Fstat(source, &is); err != nil {
		return err
	}
	if is.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil // the mount will say so
	}
	if err := os.Mkdir(volume+"/"+marker, 0o700); err != nil {
		return err
	}
	if err := syncTree(volume); err != nil {
		return err
	}
	if err := os.Remove(volume + "/" + lostFound); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	to, err := unix.Open(volume, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	c := &copier{root: to, links: map[inode]string{}, buf: make([]byte, 256<<10)}
	if err := c.directory(fdPath(source), to, ""); err != nil {
		return err
	}
	if err := finish(volume); err != nil {
		return err
	}
	return setMeta(fdPath(source)+"/.", fdPath(to)+"/.", &is) // after the removal, which changes the time
}

// fdPath is a path by which the kernel finds what fd is open on.
func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// inode tells files apart.
type inode struct{ device, number uint64 }

// copier copies a tree that nobody changes meanwhile. No link of it is followed.
type copier struct {
	root  int              // the volume's
	links map[inode]string // where files with several names were copied to, below root
	buf   []byte
}

// directory copies what is in the directory from into the open directory to, which is at the path at below root.
func (c *copier) directory(from string, to int, at string) error {
	dir, err := unix.Open(from, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	source := os.NewFile(uintptr(dir), from)
	defer source.Close()
	names, err := source.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if at == "" && name == marker {
			continue
		}
		if err := c.entry(fdPath(dir)+"/"+name, to, name, at+name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// entry copies one name.
func (c *copier) entry(from string, to int, name, at string) error {
	var is unix.Stat_t
	if err := unix.Lstat(from, &is); err != nil {
		return err
	}
	kind, into := is.Mode&unix.S_IFMT, fdPath(to)+"/"+name
	if kind != unix.S_IFDIR && is.Nlink > 1 {
		key := inode{is.Dev, is.Ino}
		if first, ok := c.links[key]; ok {
			return unix.Linkat(c.root, first, to, name, 0)
		}
		if len(at) < unix.PathMax {
			c.links[key] = at
		}
	}
	var err error
	switch kind {
	case unix.S_IFDIR:
		err = c.subdirectory(from, to, name, at)
	case unix.S_IFREG:
		err = c.file(from, to, name)
	case unix.S_IFLNK:
		var target string
		if target, err = os.Readlink(from); err == nil {
			err = unix.Symlinkat(target, to, name)
		}
	default:
		err = unix.Mknodat(to, name, kind|0o600, int(is.Rdev))
	}
	if err != nil {
		return err
	}
	return setMeta(from, into, &is)
}

func (c *copier) subdirectory(from string, to int, name, at string) error {
	if err := unix.Mkdirat(to, name, 0o700); err != nil {
		return err
	}
	fd, err := unix.Openat(to, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return c.directory(from, fd, at+"/")
}

func (c *copier) file(from string, to int, name string) error {
	source, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer source.Close()
	fd, err := unix.Openat(to, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	target := os.NewFile(uintptr(fd), name)
	_, err = io.CopyBuffer(onlyWriter{target}, onlyReader{source}, c.buf)
	return errors.Join(err, target.Close())
}

// onlyWriter and onlyReader keep io.Copy to the buffer.
type (
	onlyWriter struct{ io.Writer }
	onlyReader struct{ io.Reader }
)

// setMeta gives the copy the owner, mode, attributes and times, in an order in which none undoes another: chown clears setuid bits and
// capabilities.
func setMeta(from, into string, is *unix.Stat_t) error {
	if err := unix.Lchown(into, int(is.Uid), int(is.Gid)); err != nil {
		return err
	}
	if is.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(into, is.Mode&0o7777); err != nil {
			return err
		}
	}
	if err := copyXattrs(from, into); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, into, []unix.Timespec{is.Atim, is.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// maxXattr is the most that Linux returns of names or of a value (XATTR_LIST_MAX, XATTR_SIZE_MAX), in bytes.
const maxXattr = 65536

func copyXattrs(from, into string) error {
	size, err := unix.Llistxattr(from, nil)
	if errors.Is(err, unix.ENOTSUP) || err == nil && size == 0 {
		return nil
	}
	buf := make([]byte, maxXattr)
	if err == nil {
		size, err = unix.Llistxattr(from, buf)
	}
	if err != nil {
		return fmt.Errorf("cannot list attributes: %w", err)
	}
	value := make([]byte, maxXattr)
	for _, name := range strings.Split(strings.TrimRight(string(buf[:size]), "\x00"), "\x00") {
		n, err := unix.Lgetxattr(from, name, value)
		if err == nil {
			err = unix.Lsetxattr(into, name, value[:n], 0)
		}
		if err != nil {
			return fmt.Errorf("cannot copy attribute %s: %w", name, err)
		}
	}
	return nil
}
