package unpack

import (
	"archive/tar"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// create makes one entry, and replaces what a lower layer has in its place.
func (u *unpacker) create(h *tar.Header, name string) error {
	if isFile(h) && strings.HasSuffix(h.Name, "/") {
		h.Typeflag = tar.TypeDir // as tars from before POSIX say it; archive/tar knows this of type 0 alone
	}
	if name == "" {
		return u.rootDir(h)
	}
	parentName, base := split(name)
	parent, err := u.tree.dir(parentName)
	if err != nil {
		return err
	}
	u.tree.made[u.tree.hash(name)] = struct{}{}
	e := entry{Header: h, name: name, parent: parent, base: base}
	switch {
	case isFile(h):
		return u.file(e)
	case h.Typeflag == tar.TypeDir:
		return u.dir(e)
	case h.Typeflag == tar.TypeLink:
		return u.link(e)
	}
	if err := u.node(e); err != nil {
		return err
	}
	return e.setMeta()
}

func isFile(h *tar.Header) bool {
	return h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeGNUSparse || h.Typeflag == tar.TypeCont
}

// entry is a header with its place.
type entry struct {
	*tar.Header
	name   string
	parent dir
	base   string
}

// fresh makes something by calling do, which must fail with EEXIST when there is something of that name; what
// there is makes way and do gets a second try. So a name that is new, the common case, costs no look-up.
func (u *unpacker) fresh(e entry, do func() error) error {
	err := do()
	if errors.Is(err, unix.EEXIST) {
		if err = u.replace(e); err == nil {
			err = do()
		}
	}
	return err
}

// replace removes what is at e's place, a directory with all that is in it.
func (u *unpacker) replace(e entry) error {
	var st unix.Stat_t
	err := unix.Fstatat(e.parent.fd, e.base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		err = u.replaceable(e, st.Mode&unix.S_IFMT == unix.S_IFDIR)
	}
	if err == nil {
		_, err = remover{}.remove(e.parent.fd, e.base, e.name, 0)
	}
	if err != nil {
		return fmt.Errorf("cannot replace what is there: %w", err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		u.forgetDirs(e.name)
	case unix.S_IFLNK:
		u.tree.forget() // names may have led through it
	}
	return nil
}

// replaceable refuses what a copy is not to replace. directory says that there is one.
func (u *unpacker) replaceable(e entry, directory bool) error {
	if u.into == nil || !u.into.NoOverwriteDirNonDir || directory == (e.Typeflag == tar.TypeDir) {
		return nil
	}
	return &ReplaceError{Name: e.name, Directory: directory}
}

func (u *unpacker) file(e entry) error {
	if left := u.maxBytes - u.res.Bytes; uint64(e.Size) > left {
		return fmt.Errorf("%w: %d bytes where %d are left of %d", ErrTooLarge, e.Size, left, u.maxBytes)
	}
	u.res.Bytes += uint64(e.Size)
	var fd int
	err := u.fresh(e, func() (err error) {
		const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
		fd, err = unix.Openat(e.parent.fd, e.base, flags, e.permissions())
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot make file: %w", err)
	}
	f := &outFile{fd: fd, entry: e, sparse: isSparse(e.Header)}
	header := *e.Header // the reader uses it again
	f.entry.Header = &header
	if f.direct = !f.sparse && e.Size >= directSize; f.direct {
		f.direct = setDirect(fd, true) == nil
	}
	return u.content(f)
}

// content has the file's bytes written, in pieces as large as what is held of the layer.
func (u *unpacker) content(f *outFile) error {
	size := f.entry.Size
	for at := int64(0); ; {
		data, err := u.layer.content()
		if err != nil {
			u.writer.pieces <- piece{outFile: f, last: true, spoil: true}
			return fmt.Errorf("cannot read content at byte %d of %d: %w", at, size, err)
		}
		p := piece{outFile: f, data: u.writer.buffer(len(data)), at: at}
		copy(p.data, data)
		at += int64(len(data))
		p.last = at == size
		u.writer.pieces <- p
		if p.last {
			return nil
		}
	}
}

// dir makes a directory, or takes the one that is there. Its times are set at the end: making things in it changes them.
func (u *unpacker) dir(e entry) error {
	err := unix.Mkdirat(e.parent.fd, e.base, e.permissions())
	if errors.Is(err, unix.EEXIST) {
		return u.oldDir(e)
	}
	if err != nil {
		return fmt.Errorf("cannot make directory: %w", err)
	}
	u.deferTimes(e)
	return e.setDirMeta(false)
}

func (u *unpacker) oldDir(e entry) error {
	var st unix.Stat_t
	if err := unix.Fstatat(e.parent.fd, e.base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("cannot stat what is there: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if err := u.replace(e); err != nil {
			return err
		}
		return u.dir(e)
	}
	u.tree.forget() // its setgid bit may change
	u.deferTimes(e)
	return e.setDirMeta(true)
}

// rootDir applies an entry for the root itself.
func (u *unpacker) rootDir(h *tar.Header) error {
	if h.Typeflag != tar.TypeDir {
		return fmt.Errorf("%w: the root as anything but a directory", ErrUnsupported)
	}
	e := entry{Header: h, parent: u.tree.root, base: "."}
	u.deferTimes(e)
	u.tree.root.setgid = e.permissions()&unix.S_ISGID != 0
	return e.setDirMeta(true)
}

// link makes a hard link. Its target's directory is resolved beneath the root, and its target is not followed.
func (u *unpacker) link(e entry) error {
	target, err := cleanName(e.Linkname)
	if err != nil {
		return fmt.Errorf("hard link to %.256q: %w", e.Linkname, err)
	}
	if target == e.name {
		return fmt.Errorf("%w: a hard link to itself", ErrUnsupported)
	}
	dirName, base := split(target)
	from, err := u.tree.resolve("./" + dirName)
	if err != nil {
		return fmt.Errorf("cannot make hard link to %q: %w", target, err)
	}
	defer unix.Close(from)
	err = u.fresh(e, func() error { return unix.Linkat(from, base, e.parent.fd, e.base, 0) })
	if err != nil {
		return fmt.Errorf("cannot make hard link to %q: %w", target, err)
	}
	return nil
}

// node makes what has neither content nor entries.
func (u *unpacker) node(e entry) error {
	var do func() error
	switch e.Typeflag {
	case tar.TypeSymlink:
		do = func() error { return unix.Symlinkat(e.Linkname, e.parent.fd, e.base) }
	case tar.TypeFifo:
		do = func() error { return unix.Mknodat(e.parent.fd, e.base, unix.S_IFIFO|e.permissions(), 0) }
	case tar.TypeChar:
		do = func() error { return e.mknod(unix.S_IFCHR) }
	case tar.TypeBlock:
		do = func() error { return e.mknod(unix.S_IFBLK) }
	default:
		return fmt.Errorf("%w: %q", ErrUnsupported, e.Typeflag)
	}
	if err := u.fresh(e, do); err != nil {
		return fmt.Errorf("cannot make it: %w", err)
	}
	return nil
}

func (e entry) mknod(kind uint32) error {
	const maxMajor, maxMinor = 1<<12 - 1, 1<<20 - 1 // include/linux/kdev_t.h
	if e.Devmajor < 0 || e.Devmajor > maxMajor || e.Devminor < 0 || e.Devminor > maxMinor {
		return fmt.Errorf("%w: device %d:%d", ErrUnsupported, e.Devmajor, e.Devminor)
	}
	dev := unix.Mkdev(uint32(e.Devmajor), uint32(e.Devminor))
	return unix.Mknodat(e.parent.fd, e.base, kind|e.permissions(), int(dev))
}
