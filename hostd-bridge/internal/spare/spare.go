// Package spare keeps files whose blocks a file system has set aside: with one of them a small file can be replaced when there is no space
// left, whoever else writes to the file system at that moment.
package spare

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// retry is how long a file that could not be made is not tried again: it is tried on the way of those who write.
const retry = time.Second

// File is a file that is set aside. It belongs to one goroutine, or to a lock of its owner.
type File struct {
	root  *os.Root
	name  string
	size  int64
	ready bool
	tried time.Time // the last attempt that failed
	why   error     // of that attempt
}

// New returns a file of size bytes below root. It is there after Make.
func New(root *os.Root, name string, size int64) *File {
	return &File{root: root, name: name, size: size}
}

// Size is how many bytes are set aside.
func (f *File) Size() int64 { return f.size }

// Resize has the next Make set aside so many bytes at least.
func (f *File) Resize(size int64) { f.size = max(f.size, size) }

// Make sets the blocks aside, unless they are, or it has failed within the last second. The error is that of the last attempt: without space,
// or on a file system that sets nothing aside (fallocate(2)), there is no such file.
func (f *File) Make() error {
	if f.ready {
		return nil
	}
	if time.Since(f.tried) < retry {
		return f.why
	}
	if f.why = f.make(); f.why != nil {
		f.tried = time.Now()
		return f.why
	}
	f.ready = true
	return nil
}

func (f *File) make() error {
	file, err := f.root.OpenFile(f.name, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		// The blocks lie behind the end of the file, which is empty.
		if err = file.Truncate(0); err == nil {
			err = unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, f.size)
		}
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		_ = f.root.Remove(f.name) // what was set aside of it is of use to others; it may not be there
		return fmt.Errorf("cannot set %d bytes aside in %s: %w", f.size, f.name, err)
	}
	return nil
}

// Take returns the file, which is empty and has the name Name, for what is to be renamed. The error wraps fs.ErrNotExist when there is none.
func (f *File) Take() (*os.File, error) {
	if !f.ready {
		return nil, fmt.Errorf("cannot use %s: nothing is set aside: %w", f.name, fs.ErrNotExist)
	}
	f.ready = false
	f.tried = time.Time{} // the next Make tries at once
	file, err := f.root.OpenFile(f.name, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot use what was set aside: %w", err)
	}
	return file, nil
}

// Name is the file's name below its root.
func (f *File) Name() string { return f.name }
