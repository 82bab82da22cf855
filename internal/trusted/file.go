package trusted

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// OpenFile is os.OpenFile of a regular file of ours. What was put in its place is refused: a link, a device or a pipe, and a file that has
// another name too or belongs to somebody else.
func OpenFile(path string, flag int, mode fs.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK, mode) // O_NONBLOCK: a pipe would wait for its other end
	if err != nil {
		return nil, err
	}
	if err := regular(f); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open %s: %w", path, err), f.Close())
	}
	return f, nil
}

func regular(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("it is no regular file")
	case st.Nlink > 1:
		return errors.New("it has another name too")
	case !ours(st.Uid):
		return fmt.Errorf("it belongs to user %d", st.Uid)
	}
	return nil
}

// WriteFile puts data at path so that after a crash of the program it is there whole or not at all. It makes a new file, and takes none that lies
// there already for it.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	next := path + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a program that was killed
		return err
	}
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	return os.Rename(next, path)
}
