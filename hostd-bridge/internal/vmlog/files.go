package vmlog

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
)

// file is one of a log's files.
type file struct {
	offset int64    // of its first byte in the log
	size   int64    // of what may be read
	path   string   // empty: in memory
	open   *os.File // nil: not yet
}

func (f *file) end() int64 { return f.offset + f.size }

// reader opens the file, if it is not open.
func (f *file) reader() (*os.File, error) {
	if f.open == nil {
		opened, err := os.Open(f.path)
		if err != nil {
			return nil, err
		}
		f.open = opened
	}
	return f.open, nil
}

func (f *file) close() {
	if f.open != nil {
		f.open.Close()
	}
}

// remove takes the file out of its log.
func (f *file) remove() error {
	f.close()
	if f.path == "" {
		return nil
	}
	return os.Remove(f.path)
}

// list finds the files of the log in a directory, in the order of their offsets. There may be no such directory.
func list(dir string) ([]*file, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot look for the machine's log: %w", err)
	}
	var files []*file
	for _, e := range entries {
		offset, ok := hostapi.LogOffset(e.Name())
		if !ok {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // rotated away meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("cannot look for the machine's log: %w", err)
		}
		files = append(files, &file{offset: offset, size: info.Size(), path: filepath.Join(dir, e.Name())})
	}
	slices.SortFunc(files, func(a, b *file) int { return cmp.Compare(a.offset, b.offset) })
	return files, nil
}

// create makes the file that begins with an offset, in memory if the log is not stored.
func create(dir string, offset int64, stored bool) (*file, error) {
	if !stored {
		fd, err := unix.MemfdCreate("log", unix.MFD_CLOEXEC)
		if err != nil {
			return nil, fmt.Errorf("cannot make a log in memory: %w", err)
		}
		return &file{offset: offset, open: os.NewFile(uintptr(fd), "log")}, nil
	}
	path := filepath.Join(dir, hostapi.LogFileAt(offset))
	opened, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return nil, fmt.Errorf("cannot make a file of the machine's log: %w", err)
	}
	return &file{offset: offset, path: path, open: opened}, nil
}

// resume opens the last file for writing, and cuts off what follows its last whole record, whatever is wrong with it.
func (f *file) resume() error {
	opened, err := os.OpenFile(f.path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("cannot open the machine's log: %w", err)
	}
	good, _ := link.ScanRecords(opened)
	if err := opened.Truncate(good); err != nil {
		opened.Close()
		return fmt.Errorf("cannot cut the torn tail of the machine's log: %w", err)
	}
	f.open, f.size = opened, good
	return nil
}

// End finds the end of the log in a directory: that of its last whole record, because a torn or damaged tail is cut off when the
// machine starts. What lies before known, an end that was found earlier, is not read again.
func End(dir string, known int64) (int64, error) {
	files, err := list(dir)
	if err != nil || len(files) == 0 {
		return 0, err
	}
	last := files[len(files)-1]
	if known < last.offset || known > last.end() {
		known = last.offset // in an earlier file, or of another log
	}
	opened, err := last.reader()
	if errors.Is(err, fs.ErrNotExist) { // rotated away meanwhile, and there is a newer one
		return End(dir, known)
	}
	if err != nil {
		return 0, err
	}
	defer last.close()
	if _, err := opened.Seek(known-last.offset, io.SeekStart); err != nil {
		return 0, err
	}
	good, _ := link.ScanRecords(opened) // what is wrong behind that is cut off by the next start
	return known + good, nil
}
