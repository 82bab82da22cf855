// Package trusted makes directories in which nobody but their owner and root can plant anything: no part of the way to them can be written by
// others. What is made below such a directory by its path is made there, and nowhere else.
package trusted

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxLinks bounds the symbolic links on the way, as Linux does (path_resolution(7)).
const maxLinks = 40

// MakeDir makes a directory that only its owner may enter, with what is missing above it, and checks it as Check does.
func MakeDir(path string) error {
	if err := check(path, true); err != nil {
		return err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("cannot make the directory %s: %w", path, err)
	}
	return Check(path)
}

// Check says why a directory cannot be trusted: it, or a part of the way to it, belongs to another user than this process's or root, or can be
// written by others. A directory in which each may remove only what is theirs, as /tmp, may be on the way.
func Check(path string) error { return check(path, false) }

func check(path string, missing bool) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("cannot find the directory %s: %w", path, err)
	}
	w := walk{path: path, missing: missing}
	return w.to(abs)
}

// walk goes down to a directory.
type walk struct {
	path    string // as the user gave it
	missing bool   // the last parts may be missing
	links   int
}

func (w *walk) to(abs string) error {
	at, rest := "/", strings.Split(strings.Trim(abs, "/"), "/")
	if err := w.look(at, len(rest) == 1 && rest[0] == ""); err != nil {
		return err
	}
	for n, part := range rest {
		if part == "" {
			continue
		}
		next := filepath.Join(at, part)
		info, err := os.Lstat(next)
		if errors.Is(err, fs.ErrNotExist) && w.missing {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot use the directory %s: %w", w.path, err)
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			return w.follow(next, info, rest[n+1:])
		}
		if err := w.look(next, n == len(rest)-1); err != nil {
			return err
		}
		at = next
	}
	return nil
}

// follow goes on where a link leads. Only its owner, who is trusted, can change it: it lies in a directory that was looked at.
func (w *walk) follow(link string, info fs.FileInfo, rest []string) error {
	if w.links++; w.links > maxLinks {
		return fmt.Errorf("cannot use the directory %s: %w", w.path, syscall.ELOOP)
	}
	if owner := ownerOf(info); !ours(owner) {
		return w.refuse(link, fmt.Sprintf("is a link that belongs to user %d", owner))
	}
	target, err := os.Readlink(link)
	if err != nil {
		return fmt.Errorf("cannot use the directory %s: %w", w.path, err)
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join(filepath.Dir(link), target)
	}
	return w.to(filepath.Join(append([]string{target}, rest...)...))
}

// look checks one directory.
func (w *walk) look(dir string, last bool) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("cannot use the directory %s: %w", w.path, err)
	}
	owner, mode := ownerOf(info), info.Mode()
	switch {
	case !info.IsDir():
		return w.refuse(dir, "is no directory")
	case !ours(owner):
		return w.refuse(dir, fmt.Sprintf("belongs to user %d, and this program runs as user %d", owner, os.Geteuid()))
	case mode.Perm()&0o022 != 0 && (last || mode&fs.ModeSticky == 0):
		return w.refuse(dir, fmt.Sprintf("can be written by others (its mode is %04o): chmod go-w it", mode.Perm()))
	}
	return nil
}

func (w *walk) refuse(part, why string) error {
	return fmt.Errorf("cannot use the directory %s, since others could plant files there: %s %s; or choose another directory", w.path, part, why)
}

func ours(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }

func ownerOf(info fs.FileInfo) uint32 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Uid
	}
	return ^uint32(0)
}
