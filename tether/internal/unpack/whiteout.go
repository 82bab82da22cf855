package unpack

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// whiteout removes what lower layers have in a directory: one name, or everything when the directory is opaque.
// What this layer itself has made stays, in whatever order its entries come.
func (u *unpacker) whiteout(dirName, hidden string) error {
	if hidden != opaque && strings.HasPrefix(hidden, aufsPrefix) {
		return nil
	}
	if hidden == "" || hidden == "." || hidden == ".." {
		return fmt.Errorf("%w: a whiteout of %q", ErrEscape, hidden)
	}
	fd, err := u.tree.resolve("./" + dirName)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil // then there is nothing to hide
	}
	if err != nil {
		return fmt.Errorf("cannot open directory %q: %w", dirName, err)
	}
	defer unix.Close(fd)
	u.tree.forget()
	r := remover{keep: u.tree.isMade}
	if hidden == opaque {
		_, err = r.empty(fd, ".", dirName, 0)
	} else {
		_, err = r.remove(fd, hidden, join(dirName, hidden), 0)
	}
	if err != nil {
		return fmt.Errorf("cannot hide what lower layers have: %w", err)
	}
	return nil
}

func join(dir, base string) string {
	if dir == "" {
		return base
	}
	return dir + "/" + base
}

// remover removes trees, but for the names that keep holds and the directories above them.
type remover struct {
	keep func(name string) bool // nil: none
}

func (r remover) keeps(name string) bool { return r.keep != nil && r.keep(name) }

// remove removes base, whose clean name is name, from a directory. It follows no link. kept: something stays.
func (r remover) remove(dirfd int, base, name string, depth int) (kept bool, err error) {
	if !r.keeps(name) {
		err := unix.Unlinkat(dirfd, base, 0)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return false, nil
		}
		if !errors.Is(err, unix.EISDIR) {
			return false, err
		}
	}
	kept, err = r.empty(dirfd, base, name, depth)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return true, nil // a file or link that keep holds
	}
	if err != nil || kept || r.keeps(name) {
		return true, err
	}
	return false, unix.Unlinkat(dirfd, base, unix.AT_REMOVEDIR)
}

// empty removes what is in a directory.
func (r remover) empty(dirfd int, base, name string, depth int) (kept bool, err error) {
	if depth > maxDepth {
		return false, fmt.Errorf("%w: directories %d deep", ErrTooLarge, depth)
	}
	fd, err := unix.Openat(dirfd, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	children, err := f.Readdirnames(-1)
	if err != nil {
		return false, err
	}
	for _, child := range children {
		stays, err := r.remove(fd, child, join(name, child), depth+1)
		if err != nil {
			return true, err
		}
		kept = kept || stays
	}
	return kept, nil
}
