package unpack

import (
	"errors"
	"fmt"
	"hash/maphash"

	"golang.org/x/sys/unix"
)

// maxOpen is how many descriptors of directories are kept.
const maxOpen = 128

// dir is an open directory.
type dir struct {
	fd     int  // O_PATH
	setgid bool // what is made in it gets its group
}

// tree is the directory that a layer is unpacked into.
type tree struct {
	root dir
	open map[string]dir // by clean name
	old  []int          // descriptors that no name leads to any more

	entriesLeft uint64 // how many more may be made
	crosses     bool   // names may lead into what is mounted below the root

	// made holds hashes of the names that this layer has made, which its whiteouts do not hide: 8 bytes each, where
	// millions of names would not fit a small guest. The seed is random, so nobody can make names collide.
	made map[uint64]struct{}
	seed maphash.Seed
}

// openTree opens the directory that root is open on once more.
func openTree(root int) (*tree, error) {
	fd, err := unix.Openat(root, ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open root: %w", err)
	}
	d, err := newDir(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &tree{root: d, open: map[string]dir{}, made: map[uint64]struct{}{}, seed: maphash.MakeSeed()}, nil
}

func newDir(fd int) (dir, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return dir{}, fmt.Errorf("cannot stat directory: %w", err)
	}
	return dir{fd: fd, setgid: st.Mode&unix.S_ISGID != 0}, nil
}

func (t *tree) close() {
	t.forget()
	t.closeOld()
	unix.Close(t.root.fd)
}

// forget drops all directories but the root: what their names lead to has changed, or may have. Their descriptors stay
// open until closeOld, since the entry at hand may still work in one of them.
func (t *tree) forget() {
	for name, d := range t.open {
		t.old = append(t.old, d.fd)
		delete(t.open, name)
	}
}

// closeOld closes what forget has dropped. No entry may be at hand.
func (t *tree) closeOld() {
	for _, fd := range t.old {
		unix.Close(fd)
	}
	t.old = t.old[:0]
}

// free is the free space of the root's file system, in bytes.
func (t *tree) free() (uint64, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(t.root.fd, &fs); err != nil {
		return 0, fmt.Errorf("cannot learn the free space of the root: %w", err)
	}
	return fs.Bavail * uint64(fs.Bsize), nil
}

// spend takes one entry off what the limit allows.
func (t *tree) spend() error {
	if t.entriesLeft == 0 {
		return fmt.Errorf("%w: too many entries", ErrTooLarge)
	}
	t.entriesLeft--
	return nil
}

// dir opens a directory by its clean name, and makes it and those above it when the layer does not list them.
func (t *tree) dir(name string) (dir, error) {
	if name == "" {
		return t.root, nil
	}
	if d, ok := t.open[name]; ok {
		return d, nil
	}
	fd, err := t.resolve(name)
	if errors.Is(err, unix.ENOENT) {
		if err = t.mkdirs(name); err == nil {
			fd, err = t.resolve(name)
		}
	}
	if err != nil {
		return dir{}, fmt.Errorf("cannot open directory %q: %w", name, err)
	}
	d, err := newDir(fd)
	if err != nil {
		unix.Close(fd)
		return dir{}, err
	}
	if len(t.open) >= maxOpen {
		t.forget()
	}
	t.open[name] = d
	return d, nil
}

// resolve opens a directory with the kernel keeping it beneath the root: symbolic links on the way, which a lower layer
// may have put there, are taken as if the root were "/".
func (t *tree) resolve(name string) (int, error) {
	how := &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	if !t.crosses {
		how.Resolve |= unix.RESOLVE_NO_XDEV
	}
	for {
		fd, err := unix.Openat2(t.root.fd, name, how)
		if err != unix.EINTR && err != unix.EAGAIN { // EAGAIN: a rename elsewhere, openat2(2) says try again
			return fd, err
		}
	}
}

// mkdirs makes a directory that no entry has described.
func (t *tree) mkdirs(name string) error {
	above, base := split(name)
	d, err := t.dir(above)
	if err != nil {
		return err
	}
	if err := t.spend(); err != nil {
		return err
	}
	return unix.Mkdirat(d.fd, base, 0o755)
}

func (t *tree) hash(name string) uint64 { return maphash.String(t.seed, name) }

// isMade reports whether this layer has made name.
func (t *tree) isMade(name string) bool {
	_, ok := t.made[t.hash(name)]
	return ok
}
