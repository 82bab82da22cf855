package vmlog

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/plainfile"
	"github.com/containervm/containervm/tether/link"
)

// file is one of a log's files.
type file struct {
	offset int64    // of its first byte in the log
	size   int64    // of what may be read
	dir    *os.Root // nil: in memory
	name   string   // in dir
	open   *os.File // nil: not yet
}

func (f *file) end() int64 { return f.offset + f.size }

// reader opens the file, if it is not open.
func (f *file) reader() (*os.File, error) {
	if f.open == nil {
		opened, err := openFile(f.dir, f.name, os.O_RDONLY)
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
	if f.dir == nil {
		return nil
	}
	return f.dir.Remove(f.name)
}

// openFile opens a regular file. What lies in the directory of a machine that somebody has broken may be anything.
func openFile(dir *os.Root, name string, flag int) (*os.File, error) {
	return plainfile.Check(dir.OpenFile(name, flag|plainfile.Safe, 0o640))
}

// maxListed bounds how many files a directory may have in which a log is looked for.
const maxListed = 10_000

// openDir opens a log's directory; nil: there is none.
func openDir(path string) (*os.Root, error) {
	dir, err := os.OpenRoot(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot look for the machine's log: %w", err)
	}
	return dir, nil
}

// list finds the files of the log in a directory, in the order of their offsets. The directory may be nil.
func list(dir *os.Root) ([]*file, error) {
	if dir == nil {
		return nil, nil
	}
	d, err := dir.Open(".")
	if err != nil {
		return nil, fmt.Errorf("cannot look for the machine's log: %w", err)
	}
	defer d.Close()
	entries, err := d.ReadDir(maxListed)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("cannot look for the machine's log: %w", err)
	}
	var files []*file
	for _, e := range entries {
		offset, ok := hostapi.LogOffset(e.Name())
		if !ok {
			continue
		}
		info, err := dir.Lstat(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // rotated away meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("cannot look for the machine's log: %w", err)
		}
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("cannot use %s as a machine's log: it is no regular file", e.Name())
		}
		files = append(files, &file{offset: offset, size: info.Size(), dir: dir, name: e.Name()})
	}
	slices.SortFunc(files, func(a, b *file) int { return cmp.Compare(a.offset, b.offset) })
	return files, nil
}

// create makes the file that begins with an offset, in memory if the log is not stored.
func create(dir *os.Root, offset int64, stored bool) (*file, error) {
	if !stored {
		fd, err := unix.MemfdCreate("log", unix.MFD_CLOEXEC)
		if err != nil {
			return nil, fmt.Errorf("cannot make a log in memory: %w", err)
		}
		return &file{offset: offset, open: os.NewFile(uintptr(fd), "log")}, nil
	}
	name := hostapi.LogFileAt(offset)
	opened, err := openFile(dir, name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return nil, fmt.Errorf("cannot make a file of the machine's log: %w", err)
	}
	return &file{offset: offset, dir: dir, name: name, open: opened}, nil
}

// resume opens the last file for writing, and cuts off what follows its last whole record, whatever is wrong with it.
func (f *file) resume() error {
	opened, err := openFile(f.dir, f.name, os.O_RDWR)
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
func End(path string, known int64) (int64, error) {
	dir, err := openDir(path)
	if err != nil || dir == nil {
		return 0, err
	}
	defer dir.Close()
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
		return End(path, known)
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
