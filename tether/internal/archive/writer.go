package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// copySize is how much of a file is read at once, in bytes.
	copySize = 256 << 10
	// maxDepth is how many directories below each other are read, each by a descriptor.
	maxDepth = 1000
	// nameBatch is how many names of a directory are read at once.
	nameBatch = 512
	// maxLinked is how many files with several names are remembered; further ones are whole at each name.
	maxLinked = 1 << 18
	// maxXattr is the most that Linux returns of names or of a value (XATTR_LIST_MAX, XATTR_SIZE_MAX), in bytes.
	maxXattr = 65536
	// paxXattr is what PAX records of extended attributes begin with, from star and used by the image specification.
	paxXattr = "SCHILY.xattr."
)

// inode tells files apart.
type inode struct{ device, number uint64 }

// writer writes entries of a tar.
type writer struct {
	ctx     context.Context
	tar     *tar.Writer
	linked  map[inode]string // first names of files that have several
	buf     []byte
	entries uint64
	skip    func(name string) bool // whether a name is left out; nil: none is
	crosses bool                   // what is mounted below is read, too
	bare    string                 // name right below the root of a directory that is written without what is in it: /dev
	layer   bool                   // the tar is a layer of an image, in which some names mean something else
	device  uint64                 // of the root, where !crosses
}

func newWriter(ctx context.Context, w io.Writer) *writer {
	return &writer{ctx: ctx, tar: tar.NewWriter(w), linked: map[inode]string{}, buf: make([]byte, copySize)}
}

// entryError says which name could not be read.
func entryError(name string, err error) error {
	return fmt.Errorf("cannot read %.256q: %w", name, err)
}

// gone reports whether a name that was listed is not there any more, or is something else by now.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ESTALE)
}

// entry writes what is at base in the directory dir as name, with all that is below it. What has vanished meanwhile is left out, and so are
// sockets, which no tar can hold.
func (w *writer) entry(dir int, base, name string, depth int) error {
	if err := w.ctx.Err(); err != nil {
		return context.Cause(w.ctx)
	}
	if w.layer && strings.HasPrefix(base, whiteoutPrefix) {
		return entryError(name, fmt.Errorf("%w: in a layer of an image a name that begins with %s removes another", ErrInvalid, whiteoutPrefix))
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if gone(err) {
			return nil
		}
		return entryError(name, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return nil
	case unix.S_IFDIR:
		return w.directory(dir, base, name, depth)
	case unix.S_IFREG:
		return w.file(dir, base, name)
	default:
		return w.node(dir, base, name, &st)
	}
}

// openDir opens a directory to read its names.
func openDir(dir int, base string) (int, error) {
	return unix.Openat(dir, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

func (w *writer) directory(dir int, base, name string, depth int) error {
	fd, err := openDir(dir, base)
	if err != nil {
		if gone(err) {
			return nil
		}
		return entryError(name, err)
	}
	defer unix.Close(fd)
	if err := w.dirHeader(fd, name); err != nil {
		return err
	}
	return w.below(fd, name, depth)
}

// below writes what is in the directory fd, whose name is given with or without its "/".
func (w *writer) below(fd int, name string, depth int) error {
	if depth == maxDepth {
		return fmt.Errorf("cannot read %.256q: %w: directories more than %d deep", name, ErrInvalid, maxDepth)
	}
	kernels, err := kernelsOwn(fd)
	if err != nil {
		return entryError(name, err)
	}
	if kernels != "" {
		return nil // its directory is all there is to copy of it
	}
	if !w.crosses {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return entryError(name, err)
		}
		if w.device == 0 {
			w.device = st.Dev
		}
		if st.Dev != w.device {
			return nil
		}
	}
	return eachName(fd, name, func(child string) error {
		if w.skip != nil && w.skip(join(name, child)) {
			return nil
		}
		if depth == 0 && w.bare == child {
			return w.bareDir(fd, child, join(name, child))
		}
		return w.entry(fd, child, join(name, child), depth+1)
	})
}

// bareDir writes a directory without what is in it.
func (w *writer) bareDir(dir int, base, name string) error {
	fd, err := openDir(dir, base)
	if err != nil {
		return w.entry(dir, base, name, maxDepth-1) // no directory
	}
	defer unix.Close(fd)
	return w.dirHeader(fd, name)
}

// eachName calls f with the names in a directory, in the kernel's order, a part of them at a time: a directory may have millions.
func eachName(fd int, name string, f func(child string) error) error {
	again, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) // os.File closes what it reads from
	if err != nil {
		return entryError(name, err)
	}
	dir := os.NewFile(uintptr(again), "directory")
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(nameBatch)
		for _, child := range names {
			if err := f(child); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return entryError(name, err)
		}
	}
}

// join is the name of what is in a directory; "" is the root, whose names begin with no "/".
func join(dir, child string) string {
	switch {
	case dir == "":
		return child
	case strings.HasSuffix(dir, "/"):
		return dir + child
	}
	return dir + "/" + child
}

// dirHeader writes the entry of the directory fd.
func (w *writer) dirHeader(fd int, name string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return entryError(name, err)
	}
	h := header(&st, strings.TrimSuffix(name, "/")+"/")
	h.Typeflag = tar.TypeDir
	if err := w.xattrs(h, func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) },
		func(attr string, buf []byte) (int, error) { return unix.Fgetxattr(fd, attr, buf) }); err != nil {
		return entryError(name, err)
	}
	return w.write(h)
}

func (w *writer) write(h *tar.Header) error {
	if err := w.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("cannot write %.256q: %w", h.Name, err)
	}
	w.entries++
	return nil
}

// header is what all kinds of entries have.
func header(st *unix.Stat_t, name string) *tar.Header {
	return &tar.Header{
		Format: tar.FormatPAX, Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()),
	}
}

// again writes a hard link if the file was written by another name, and remembers its name if it may have others.
func (w *writer) again(st *unix.Stat_t, name string) (done bool, err error) {
	if st.Nlink < 2 {
		return false, nil
	}
	key := inode{st.Dev, st.Ino}
	first, known := w.linked[key]
	if !known {
		if len(w.linked) < maxLinked {
			w.linked[key] = name
		}
		return false, nil
	}
	h := header(st, name)
	h.Typeflag, h.Linkname = tar.TypeLink, first
	return true, w.write(h)
}

// file writes a regular file. It never opens anything else: a pipe would wait for its writer, a device may do anything.
func (w *writer) file(dir int, base, name string) error {
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOATIME|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EPERM) { // a file system that wants its owner for O_NOATIME, as one of a server
		fd, err = unix.Openat(dir, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		if gone(err) || errors.Is(err, unix.ENXIO) { // ENXIO: a socket or pipe by now
			return nil
		}
		return entryError(name, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return entryError(name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil // it became something else
	}
	if done, err := w.again(&st, name); done || err != nil {
		return err
	}
	h := header(&st, name)
	h.Typeflag, h.Size = tar.TypeReg, st.Size
	if err := w.xattrs(h, func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) },
		func(attr string, buf []byte) (int, error) { return unix.Fgetxattr(fd, attr, buf) }); err != nil {
		return entryError(name, err)
	}
	if err := w.write(h); err != nil {
		return err
	}
	return w.content(fd, name, st.Size)
}

// content writes size bytes of a file, whatever becomes of the file: one that has grown is cut, one that has shrunk ends in zeros.
func (w *writer) content(fd int, name string, size int64) error {
	short := false
	for size > 0 {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		part := w.buf[:min(size, copySize)]
		n := len(part)
		if short {
			clear(part)
		} else {
			var err error
			if n, err = unix.Read(fd, part); errors.Is(err, unix.EINTR) {
				continue
			} else if err != nil {
				return entryError(name, err)
			}
			short = n == 0
		}
		if n == 0 {
			continue
		}
		if _, err := w.tar.Write(part[:n]); err != nil {
			return fmt.Errorf("cannot write %.256q: %w", name, err)
		}
		size -= int64(n)
	}
	return nil
}

// node writes what has neither content nor entries: a link, a device or a pipe.
func (w *writer) node(dir int, base, name string, st *unix.Stat_t) error {
	if done, err := w.again(st, name); done || err != nil {
		return err
	}
	h := header(st, name)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target, ok := linkOf(dir, base)
		if !ok {
			return nil // it became something else
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR:
		h.Typeflag = tar.TypeChar
	case unix.S_IFBLK:
		h.Typeflag = tar.TypeBlock
	default:
		return nil
	}
	if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	}
	at := fmt.Sprintf("/proc/self/fd/%d/%s", dir, base)
	if err := w.xattrs(h, func(buf []byte) (int, error) { return unix.Llistxattr(at, buf) },
		func(attr string, buf []byte) (int, error) { return unix.Lgetxattr(at, attr, buf) }); err != nil && !gone(err) {
		return entryError(name, err)
	}
	return w.write(h)
}

// xattrs puts all extended attributes into an entry, but for those that a PAX record has no way to name.
func (w *writer) xattrs(h *tar.Header, list func([]byte) (int, error), get func(string, []byte) (int, error)) error {
	names, err := listXattrs(list)
	if err != nil {
		return err
	}
	for _, attr := range names {
		if strings.Contains(attr, "=") {
			continue
		}
		value, err := xattr(attr, get)
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
			continue // it is gone
		}
		if err != nil {
			return fmt.Errorf("attribute %.64q: %w", attr, err)
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[paxXattr+attr] = string(value)
	}
	return nil
}

func listXattrs(list func([]byte) (int, error)) ([]string, error) {
	size, err := list(nil)
	if errors.Is(err, unix.ENOTSUP) || err == nil && size == 0 {
		return nil, nil
	}
	buf := make([]byte, min(maxXattr, max(size, 0)+1024)) // some more may come meanwhile
	if err == nil {
		size, err = list(buf)
	}
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, maxXattr)
		size, err = list(buf)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list attributes: %w", err)
	}
	if size == 0 {
		return nil, nil
	}
	return strings.Split(strings.TrimRight(string(buf[:size]), "\x00"), "\x00"), nil
}

func xattr(attr string, get func(string, []byte) (int, error)) ([]byte, error) {
	buf := make([]byte, 256)
	n, err := get(attr, buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, maxXattr)
		n, err = get(attr, buf)
	}
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}
