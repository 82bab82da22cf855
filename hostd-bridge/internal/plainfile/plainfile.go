// Package plainfile opens and makes files in directories where somebody else may have put anything: whoever has broken a machine's QEMU, or a client
// that uploads.
package plainfile

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Safe are the flags with which a name leads to no other name and an open waits for nobody: Check says then what was opened.
const Safe = unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC

// Open opens a regular file for reading, without following a link.
func Open(path string) (*os.File, error) { return OpenFile(path, os.O_RDONLY) }

// OpenFile opens a regular file that is there, without following a link.
func OpenFile(path string, flag int) (*os.File, error) {
	return Check(os.OpenFile(path, flag|Safe, 0))
}

// Create makes a file anew, in the place of whatever has its name, for reading and writing.
func Create(path string, mode os.FileMode) (*os.File, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
}

// Check passes on what an open has returned if that is a regular file, and closes it otherwise.
func Check(f *os.File, err error) (*os.File, error) {
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("cannot use %s: it is no regular file", f.Name())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
