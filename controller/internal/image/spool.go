package image

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// spool copies r, at most limit bytes, to a temporary file without a name: it is gone when it is closed, or when this
// process ends in whatever way. The directory is os.TempDir.
func spool(r io.Reader, limit int64) (f *os.File, size int64, err error) {
	if f, err = tempFile(os.TempDir()); err != nil {
		return nil, 0, err
	}
	size, err = io.Copy(f, io.LimitReader(r, limit+1))
	if err == nil && size > limit {
		err = invalid("it is larger than %d bytes", limit)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, size, nil
}

func tempFile(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), dir+"/(spool)"), nil
	}
	f, err := os.CreateTemp(dir, "cvm-spool-") // a file system without O_TMPFILE
	if err != nil {
		return nil, fmt.Errorf("cannot make a temporary file (set TMPDIR to another directory): %w", err)
	}
	os.Remove(f.Name())
	return f, nil
}
