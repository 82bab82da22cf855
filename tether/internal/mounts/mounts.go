// Package mounts makes what lies over a container's root: volumes, memory, directories of NFS servers, and files.
//
// A file system is mounted in the machine's own namespace first, where no path of the container leads, made ready there, and then a
// second mount of it is put into the container's. So the machine knows when a file system is let go of, and a volume is clean by then.
package mounts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

const (
	// diskWait is how long the kernel may take to find a disk that was plugged in.
	diskWait = 5 * time.Second
	// serverWait is how long an NFS server may take for a mount.
	serverWait = 30 * time.Second
	// leaveWait is how long a file system may take to be let go of. One whose server is gone is left to itself then.
	leaveWait = 3 * time.Second
)

// Set is the mounts of one container. It has one user at a time.
type Set struct {
	// Dir is a directory of the machine's own, made if missing, where the file systems are mounted.
	Dir string
	// Image is where the machine has the container's disk, with nothing mounted over it.
	Image string
	// InRoot calls f in the container's mount namespace and root, which can be written to.
	InRoot func(f func() error) error
	// Resolver is the container's, for names of servers.
	Resolver *tetherv1.Resolver
	Hosts    []*tetherv1.HostEntry

	places []place // in the order in which they were made
}

// place is a file system that is mounted below Dir.
type place struct {
	dir      string
	serial   string // of a volume
	readOnly bool   // its disk can only be read
	remote   bool   // it has a server that may be gone
}

// Make makes all of them, in the order of the targets' depth, and the files after them. An error says which mount failed; those before it
// stay until Close.
func (s *Set) Make(ctx context.Context, all []*tetherv1.Mount, files []*tetherv1.File) error {
	for _, m := range all {
		if err := checkTarget(m.GetTarget()); err != nil {
			return fmt.Errorf("cannot mount on %q: %w", m.GetTarget(), err)
		}
	}
	for _, f := range files {
		if err := checkTarget(f.GetPath()); err != nil {
			return fmt.Errorf("cannot put a file at %q: %w", f.GetPath(), err)
		}
	}
	if err := s.prepare(); err != nil {
		return err
	}
	ordered := slices.Clone(all)
	slices.SortStableFunc(ordered, func(a, b *tetherv1.Mount) int { return cmp.Compare(depth(a.Target), depth(b.Target)) })
	for _, m := range ordered {
		if err := s.mount(ctx, m); err != nil {
			return fmt.Errorf("cannot mount %s on %s: %w", describe(m), path.Clean(m.Target), err)
		}
	}
	if err := s.putFiles(files); err != nil {
		return err
	}
	return nil
}

// Covers reports whether one of the mounts lies over dir.
func Covers(all []*tetherv1.Mount, dir string) bool {
	return slices.ContainsFunc(all, func(m *tetherv1.Mount) bool { return path.Clean(m.Target) == dir })
}

func depth(target string) int { return strings.Count(path.Clean(target), "/") }

// describe is a mount in words for people.
func describe(m *tetherv1.Mount) string {
	switch source := m.Source.(type) {
	case *tetherv1.Mount_Volume:
		return "volume " + source.Volume.GetSerial()
	case *tetherv1.Mount_Nfs:
		return fmt.Sprintf("NFS %s:%s", source.Nfs.GetAddress(), source.Nfs.GetPath())
	case *tetherv1.Mount_Tmpfs:
		return "tmpfs"
	default:
		return "an unknown kind of file system"
	}
}

// checkTarget refuses what is the machine's own.
func checkTarget(target string) error {
	if !strings.HasPrefix(target, "/") || strings.ContainsRune(target, 0) || len(target) >= unix.PathMax {
		return errors.New("it is not an absolute path")
	}
	clean := path.Clean(target)
	switch {
	case clean == "/", clean == "/dev":
		return fmt.Errorf("%s is the container's own", clean)
	case below(clean, "/proc"), below(clean, "/sys"):
		return errors.New("/proc and /sys, and what is below them, are the kernel's")
	}
	return nil
}

func below(name, dir string) bool { return name == dir || strings.HasPrefix(name, dir+"/") }

// prepare makes Dir a file system of its own that no other namespace sees.
func (s *Set) prepare() error {
	err := os.MkdirAll(s.Dir, 0o700)
	if err == nil {
		err = unix.Mount("volumes", s.Dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=700")
	}
	if err == nil {
		s.places = append(s.places, place{dir: s.Dir})
		err = unix.Mount("", s.Dir, "", unix.MS_PRIVATE, "")
	}
	if err != nil {
		return fmt.Errorf("cannot make room for mounts: %w", err)
	}
	return nil
}

// newPlace makes an empty directory to mount on.
func (s *Set) newPlace() (string, error) {
	dir := fmt.Sprintf("%s/%d", s.Dir, len(s.places))
	return dir, os.Mkdir(dir, 0o755)
}

func (s *Set) mount(ctx context.Context, m *tetherv1.Mount) error {
	var source string
	var err error
	switch from := m.Source.(type) {
	case *tetherv1.Mount_Volume:
		source, err = s.volume(ctx, m, from.Volume)
	case *tetherv1.Mount_Tmpfs:
		source, err = s.tmpfs(m, from.Tmpfs)
	case *tetherv1.Mount_Nfs:
		source, err = s.nfs(ctx, from.Nfs)
	default:
		err = errors.New("this tether knows volumes, tmpfs and NFS")
	}
	if err != nil {
		return err
	}
	return s.attach(source, path.Clean(m.Target), m.ReadOnly)
}

// attach puts a second mount of the directory or file source into the container.
func (s *Set) attach(source, target string, readOnly bool) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if readOnly {
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return err
		}
	}
	var is unix.Stat_t
	if err := unix.Fstat(fd, &is); err != nil {
		return err
	}
	directory := is.Mode&unix.S_IFMT == unix.S_IFDIR
	return s.InRoot(func() error {
		at, err := openTarget(target, directory)
		if err != nil {
			return err
		}
		defer unix.Close(at)
		return unix.MoveMount(fd, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	})
}

// openTarget opens what is to be mounted on, and makes it first if it is missing. The calling thread's root is the container's, so no link
// leads out of it; one that leads to what is the container's own is refused.
func openTarget(target string, directory bool) (int, error) {
	fd, err := unix.Open(target, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		if err = makeTarget(target, directory); err == nil {
			fd, err = unix.Open(target, unix.O_PATH|unix.O_CLOEXEC, 0)
		}
	}
	if err != nil {
		return -1, err
	}
	if err := checkOpened(fd, directory); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func makeTarget(target string, directory bool) error {
	if directory {
		return os.MkdirAll(target, 0o755)
	}
	if err := os.MkdirAll(path.Dir(target), 0o755); err != nil {
		return err
	}
	return unix.Mknod(target, unix.S_IFREG|0o644, 0) // never through a link, as open(2) would
}

func checkOpened(fd int, directory bool) error {
	var is unix.Stat_t
	if err := unix.Fstat(fd, &is); err != nil {
		return err
	}
	if isDir := is.Mode&unix.S_IFMT == unix.S_IFDIR; directory != isDir {
		if directory {
			return unix.ENOTDIR
		}
		return unix.EISDIR
	}
	for _, own := range []string{"/", "/dev", "/sys", "/proc"} {
		var other unix.Stat_t
		if err := unix.Stat(own, &other); err == nil && other.Dev == is.Dev && other.Ino == is.Ino {
			return fmt.Errorf("it is a link to %s, which is the container's own", own)
		}
	}
	return nil
}

// Close lets go of all file systems, the last one first, and reports whether all are clean. What the container had mounted must be gone
// with its namespace; what does not end in time is left behind.
func (s *Set) Close() (err error) {
	for _, p := range slices.Backward(s.places) {
		if uerr := leave(p); uerr != nil {
			err = errors.Join(err, fmt.Errorf("cannot let go of %s: %w", p.dir, uerr))
		}
	}
	s.places = nil
	return err
}

// busyPoll is the pause between two tries to unmount: the kernel lets go of a namespace that has ended a little later.
const busyPoll = 2 * time.Millisecond

func leave(p place) error {
	if !p.remote {
		return unmount(p.dir)
	}
	done := make(chan error, 1)
	go func() { done <- unmount(p.dir) }() // as long as the call into the kernel, which a server that is gone can hold up
	var err error
	select {
	case err = <-done:
		if err == nil {
			return nil
		}
	case <-time.After(leaveWait):
		err = errors.New("its server does not answer")
	}
	go func() { _ = unix.Unmount(p.dir, unix.MNT_DETACH|unix.MNT_FORCE) }() // the same
	return err
}

// unmount waits for the kernel to let go of a namespace in which the file system was mounted, too.
func unmount(dir string) error {
	for end := time.Now().Add(leaveWait); ; time.Sleep(busyPoll) {
		err := unix.Unmount(dir, 0)
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		if time.Now().After(end) {
			return errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH))
		}
	}
}
