// Package archive reads and writes files of a container for its host: what is at a path, tars of it, and what of its root differs from the
// image.
//
// A container is hostile, and runs meanwhile: every name is looked up by the kernel within the container's root (openat2 with
// RESOLVE_IN_ROOT), what was found is kept by a descriptor, and a file that changes while it is read gives a whole tar all the same.
package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/tether/internal/unpack"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

var (
	// ErrNotFound says that there is nothing at a path.
	ErrNotFound = errors.New("no such file or directory")
	// ErrReadOnly says that the root, or what is mounted at the path, cannot be written to. Its words are Docker's.
	ErrReadOnly = errors.New("marked read-only")
	// ErrBusy says that so much is read and written at a time that no more is.
	ErrBusy = errors.New("too many copies are in progress")
	// ErrInvalid says that a request cannot be meant.
	ErrInvalid = errors.New("invalid request")
)

// maxWork is how much is read and written at a time: each holds a thread where a file system of the container's own makes it wait.
const maxWork = 16

// Options say whose files they are.
type Options struct {
	// Root opens the container's root as its processes see it, by a descriptor that may be O_PATH.
	Root func() (int, error)
	// Disk is where the machine has the root's disk, with nothing mounted over it.
	Disk string
	// Base opens the root of the disk with a serial number, read-only; that is let go of with the descriptor.
	Base func(ctx context.Context, serial string) (int, error)
	// Own are clean paths of files that the tether may have put on the disk: what is at them is no change, unless the image has a file there.
	Own []string
	// Durable: an import that has ended is on the disk. A container that runs syncs by itself.
	Durable bool
	// User finds a user of the container, by a name or number as in an image's configuration.
	User func(name string) (uid, gid int, err error)
}

// Files are those of one container. Its methods may be called by several goroutines.
type Files struct {
	Options
	work chan struct{}
}

// New returns the files of a container.
func New(o Options) *Files { return &Files{Options: o, work: make(chan struct{}, maxWork)} }

// begin takes one of the places for work.
func (f *Files) begin() (end func(), err error) {
	select {
	case f.work <- struct{}{}:
		return func() { <-f.work }, nil
	default:
		return nil, ErrBusy
	}
}

// maxPath is how long a path can be, in bytes (Linux, PATH_MAX).
const maxPath = 4095

// cleanPath is a path of the container as Docker takes it: absolute whatever it begins with, without elements that mean nothing, and with
// its "/" or "/." at the end, which says that a link there is followed and that it is a directory.
func cleanPath(name string) (string, error) {
	if len(name) > maxPath || strings.IndexByte(name, 0) >= 0 {
		return "", fmt.Errorf("%w: a path has at most %d bytes and no zero byte", ErrInvalid, maxPath)
	}
	clean := path.Clean("/" + name)
	switch {
	case clean == "/":
	case strings.HasSuffix(name, "/."):
		clean += "/."
	case strings.HasSuffix(name, "/"):
		clean += "/"
	}
	return clean, nil
}

// openIn opens a clean path below root. The last name is not followed unless the path ends in "/" or "/.".
func openIn(root int, name string, flags uint64) (int, error) {
	how := &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for {
		fd, err := unix.Openat2(root, name, how)
		if err != unix.EINTR && err != unix.EAGAIN { // EAGAIN: a rename elsewhere, openat2(2) says try again
			return fd, err
		}
	}
}

// Stat says what is at a path.
func (f *Files) Stat(name string) (*tetherv1.StatPathResponse, error) {
	end, err := f.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	clean, err := cleanPath(name)
	if err != nil {
		return nil, err
	}
	root, err := f.Root()
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	st, err := statIn(root, clean)
	if err != nil {
		return nil, err
	}
	resp := &tetherv1.StatPathResponse{Name: path.Base(clean), Size: st.Size, Mode: st.Mode, MtimeUnixNano: st.Mtim.Nano()}
	if strings.HasSuffix(clean, "/.") {
		resp.Name = "."
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		resp.LinkTarget = follow(root, clean)
	}
	return resp, nil
}

func statIn(root int, clean string) (st unix.Stat_t, err error) {
	fd, err := openIn(root, clean, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return st, notFound(err)
	}
	defer unix.Close(fd)
	return st, unix.Fstat(fd, &st)
}

func notFound(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return ErrNotFound
	}
	return err
}

// maxLinks is how many links are followed for one path: Linux's own limit (MAXSYMLINKS).
const maxLinks = 40

// follow says where a clean path leads when all of its links are followed, whether anything is there or not. It is told and never used as
// a path, so it does not matter that links may change meanwhile.
func follow(root int, clean string) string {
	done, left := "/", strings.Split(clean, "/")
	for links := 0; len(left) > 0 && len(done) <= maxPath; {
		name := left[0]
		left = left[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			done = path.Dir(done)
			continue
		}
		next := path.Join(done, name)
		target, ok := readLink(root, next)
		if !ok || links == maxLinks {
			done = next
			continue
		}
		links++
		if path.IsAbs(target) {
			done = "/"
		}
		left = append(strings.Split(target, "/"), left...)
	}
	return done
}

func readLink(root int, name string) (target string, ok bool) {
	fd, err := openIn(root, name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return "", false
	}
	defer unix.Close(fd)
	return linkOf(fd, "")
}

// linkOf reads a link: name in the directory fd, or with an empty name fd itself.
func linkOf(fd int, name string) (target string, ok bool) {
	var buf [maxPath + 1]byte
	n, err := unix.Readlinkat(fd, name, buf[:])
	if err != nil {
		return "", false
	}
	return string(buf[:n]), true
}

// Import extracts a tar into a directory of the container, by Docker's rules.
func (f *Files) Import(ctx context.Context, req *tetherv1.ImportRequest, r io.Reader) (*tetherv1.ImportResponse, error) {
	end, err := f.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	into := unpack.Into{NoOverwriteDirNonDir: req.GetNoOverwriteDirNonDir()}
	if req.GetOwner() != "" {
		uid, gid, err := f.User(req.Owner)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		into.Owner = &unpack.Owner{UID: uid, GID: gid}
	}
	if into.Dir, err = f.openTarget(req.GetPath()); err != nil {
		return nil, err
	}
	defer unix.Close(into.Dir)
	result, err := unpack.Files(ctx, r, into)
	if f.Durable {
		err = errors.Join(err, sync(into.Dir))
	}
	if err != nil {
		return nil, err
	}
	return &tetherv1.ImportResponse{Entries: result.Entries}, nil
}

// sync makes durable what was written to the file system that fd, which may be O_PATH, is in.
func sync(fd int) error {
	open, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(open)
	return unix.Syncfs(open)
}

// openTarget opens a directory to extract to.
func (f *Files) openTarget(name string) (int, error) {
	clean, err := cleanPath(name)
	if err != nil {
		return -1, err
	}
	root, err := f.Root()
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	fd, err := openIn(root, clean, unix.O_PATH)
	if err != nil {
		return -1, notFound(err)
	}
	if err := writable(root, fd); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// writable says why nothing can be extracted to what fd is, in Docker's words.
func writable(root, fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("%w: extraction point is not a directory", ErrInvalid)
	}
	if err := ours(fd); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return err
	}
	if fs.Flags&unix.ST_RDONLY == 0 {
		return nil
	}
	top, here := mountOf(root), mountOf(fd)
	if top == here {
		return fmt.Errorf("container rootfs is %w", ErrReadOnly)
	}
	return fmt.Errorf("mounted volume is %w", ErrReadOnly)
}

// mountOf is the number of the mount that fd was opened through, 0 when the kernel does not say.
func mountOf(fd int) uint64 {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		return 0
	}
	return st.Mnt_id
}

// ours refuses file systems in which files are not files: reading one does something, never ends, or has no size.
func ours(fd int) error {
	name, err := kernelsOwn(fd)
	if err == nil && name != "" {
		err = fmt.Errorf("%w: it is in a file system of the kernel's own (%s), from and to which nothing is copied", ErrInvalid, name)
	}
	return err
}

// kernelsOwn is the name of the file system that fd is in if it is one of the kernel's own, else "".
func kernelsOwn(fd int) (string, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return "", err
	}
	switch uint32(fs.Type) {
	case unix.PROC_SUPER_MAGIC:
		return "proc", nil
	case unix.SYSFS_MAGIC:
		return "sysfs", nil
	case unix.CGROUP2_SUPER_MAGIC, unix.CGROUP_SUPER_MAGIC:
		return "cgroup", nil
	case unix.DEVPTS_SUPER_MAGIC:
		return "devpts", nil
	case unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC:
		return "debugfs", nil
	case unix.SECURITYFS_MAGIC:
		return "securityfs", nil
	case unix.BPF_FS_MAGIC:
		return "bpf", nil
	case unix.BINFMTFS_MAGIC:
		return "binfmt_misc", nil
	case mqueueMagic:
		return "mqueue", nil
	}
	return "", nil
}

// mqueueMagic is MQUEUE_MAGIC (Linux, ipc/mqueue.c).
const mqueueMagic = 0x19800202

// Within opens a directory of the machine's own as a root.
func Within(dir string) (int, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return fd, nil
}
