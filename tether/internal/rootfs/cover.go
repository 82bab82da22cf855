package rootfs

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Covers are files of the machine's own memory, each of which lies, or can lie, over a file of the container. They are made before there is a
// container, which can neither fill the place where they are nor name it; later they are written to by their descriptors. So what a
// container does to its own file systems (no room, links, pipes, mounts) does not hold up a machine that becomes another one, and nothing
// is written through a name of the container's. They have one user at a time.
type Covers struct{ files map[string]*cover }

// cover is one of them.
type cover struct {
	file  *os.File
	text  string // as the tether wrote it last
	mount int    // of the file, detached; -1: it was mounted
	id    inode
}

// inode is what no two files have in common at a time.
type inode struct {
	dev uint64
	ino uint64
}

// ErrLeft says that what is at a path is of the container's making, and was left as it is.
var ErrLeft = errors.New("it is of the container's own making")

// NewCovers makes files for the paths given, in dir, a directory in memory of the calling thread's mount namespace and root. Their
// names are needed until they are mounted (Linux mounts no file without one). It must be closed there, too.
func NewCovers(dir string, paths ...string) (*Covers, error) {
	c := &Covers{files: map[string]*cover{}}
	for _, path := range paths {
		f, err := newCover(dir)
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("cannot make a file for %s of the container: %w", path, err)
		}
		c.files[path] = f
	}
	return c, nil
}

func newCover(dir string) (*cover, error) {
	file, err := os.CreateTemp(dir, ".cover")
	if err != nil {
		return nil, err
	}
	var is unix.Stat_t
	mount, err := unix.OpenTree(unix.AT_FDCWD, file.Name(), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	err = errors.Join(err, file.Chmod(0o644), unix.Fstat(int(file.Fd()), &is))
	if err != nil {
		return nil, errors.Join(err, file.Close(), os.Remove(file.Name()))
	}
	return &cover{file: file, mount: mount, id: inode{is.Dev, is.Ino}}, nil
}

// Close lets go of the files. Those that are mounted stay.
func (c *Covers) Close() {
	for _, f := range c.files {
		_, _ = f.file.Close(), os.Remove(f.file.Name()) // the machine's memory alone
		if f.mount >= 0 {
			_ = unix.Close(f.mount)
		}
	}
	c.files = nil
}

// Put makes text what the container, whose root and mount namespace are the calling thread's, reads at path: the file's text is changed
// where the file lies there already, else it is mounted over the regular file that is there. Links are followed within the root, none of
// the kernel's own (magic links, proc(5)). The error is ErrLeft where the container has something else, or took the cover away.
func (c *Covers) Put(path, text string) error {
	at, is, err := lookAt(path)
	if err != nil {
		return ErrLeft // missing, or no way to it
	}
	defer unix.Close(at)
	return c.put(path, at, is, text)
}

// PutProc is Put for a file below /proc: it wants the kernel's there.
func (c *Covers) PutProc(path, text string) error {
	at, is, err := lookAt(path)
	if err != nil {
		return ErrLeft
	}
	defer unix.Close(at)
	var fs unix.Statfs_t
	if f := c.files[path]; f != nil && f.id != id(is) {
		if err := unix.Fstatfs(at, &fs); err != nil || fs.Type != unix.PROC_SUPER_MAGIC {
			return ErrLeft
		}
	}
	return c.put(path, at, is, text)
}

// lookAt finds path without opening what is there.
func lookAt(path string) (at int, is unix.Stat_t, err error) {
	at, err = unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return -1, is, err
	}
	if err = unix.Fstat(at, &is); err != nil {
		_ = unix.Close(at)
	}
	return at, is, err
}

func id(s unix.Stat_t) inode { return inode{s.Dev, s.Ino} }

// put does Put's work for the file at, which is known to be is.
func (c *Covers) put(path string, at int, is unix.Stat_t, text string) error {
	f := c.files[path]
	lies := f != nil && f.id == id(is)
	if f == nil || !lies && (f.mount < 0 || is.Mode&unix.S_IFMT != unix.S_IFREG) {
		return ErrLeft
	}
	f.text = text
	err := f.write()
	if errors.Is(err, unix.ENOSPC) {
		err = c.rewrite()
	}
	if err != nil || lies {
		return err
	}
	if err := unix.MoveMount(f.mount, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return err
	}
	_ = unix.Close(f.mount)
	f.mount = -1
	return nil
}

// rewrite gives all files their own texts when the container has filled one, and with it their file system.
func (c *Covers) rewrite() (err error) {
	for _, f := range c.files {
		err = errors.Join(err, f.file.Truncate(0))
	}
	for _, f := range c.files {
		err = errors.Join(err, f.write())
	}
	return err
}

// write makes text the file's. A reader never sees it empty.
func (f *cover) write() error {
	_, err := f.file.WriteAt([]byte(f.text), 0)
	if err == nil {
		err = f.file.Truncate(int64(len(f.text)))
	}
	return err
}
