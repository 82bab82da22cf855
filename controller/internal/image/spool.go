package image

import (
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// spool copies r, at most limit bytes, to a temporary file without a name: it is gone when it is closed, or when this
// process ends in whatever way. The directory is os.TempDir.
func spool(r io.Reader, limit int64) (f *os.File, size int64, err error) {
	if f, err = tempFile(os.TempDir()); err != nil {
		return nil, 0, err
	}
	size, err = io.Copy(&sparing{file: f}, io.LimitReader(r, limit+1))
	if err == nil && size > limit {
		err = invalid("it is larger than %d bytes", limit)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, size, nil
}

// spareCheck is after how many bytes the free space is looked at again.
const spareCheck = 16 << 20

// sparing writes to a file as long as its file system keeps a reserve: others write there too.
type sparing struct {
	file *os.File
	left int64 // bytes until the next look
}

func (s *sparing) Write(p []byte) (int, error) {
	if s.left -= int64(len(p)); s.left < 0 {
		s.left = spareCheck
		var st unix.Statfs_t
		if err := unix.Fstatfs(int(s.file.Fd()), &st); err != nil {
			return 0, err
		}
		total, free := int64(st.Blocks)*st.Bsize, int64(st.Bavail)*st.Bsize
		if reserve := min(spoolReserve, total/10); free-spareCheck < reserve {
			return 0, errdefs.ErrUnavailable.WithMessage(fmt.Sprintf(
				"only %d MiB are free where temporary files lie, and %d have to stay: free some, or set the daemon's TMPDIR to another directory", free>>20, reserve>>20))
		}
	}
	return s.file.Write(p)
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
