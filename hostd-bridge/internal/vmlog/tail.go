package vmlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
)

// Inherit copies the end of the log in one directory to another, in whole records: hostapi.InheritedLog bytes at most, and no more than a
// file of the other may have.
func Inherit(from, to string, limits hostapi.Log) error {
	if limits.Discard {
		return nil
	}
	size, _ := limits.Bounds()
	data, err := end(from, min(size, hostapi.InheritedLog))
	if err == nil && data != nil {
		err = write(to, data)
	}
	if err != nil {
		return fmt.Errorf("cannot copy the log: %w", err)
	}
	return nil
}

// write makes the first file of a log, in the place of whatever has its name.
func write(to string, data []byte) (err error) {
	path := filepath.Join(to, hostapi.LogFile)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// end returns the last whole records of a log, most bytes of them at most; nil: there is no log.
func end(path string, most int64) ([]byte, error) {
	dir, err := openDir(path)
	if err != nil || dir == nil {
		return nil, err
	}
	defer dir.Close()
	files, err := list(dir)
	if err != nil || len(files) == 0 {
		return nil, err
	}
	data := []byte{}
	for n := len(files) - 1; n >= 0 && most > 0; n-- {
		part, whole, err := files[n].tail(most)
		if errors.Is(err, fs.ErrNotExist) {
			break // dropped meanwhile, and those before it
		}
		if err != nil {
			return nil, err
		}
		most -= int64(len(part))
		data = append(part, data...)
		if !whole {
			break
		}
	}
	return data, nil
}

// tail returns the last whole records of a file, most bytes of them at most, and whether that is all of it.
func (f *file) tail(most int64) (data []byte, whole bool, err error) {
	opened, err := f.reader()
	if err != nil {
		return nil, false, err
	}
	defer f.close()
	from := max(0, f.size-most)
	if data, err = io.ReadAll(io.NewSectionReader(opened, from, f.size-from)); err != nil {
		return nil, false, err
	}
	if from > 0 {
		data = data[firstBorder(data):]
	}
	good, _ := link.ScanRecords(bytes.NewReader(data)) // what is wrong behind that is a tail that is being written
	return data[:good], from == 0, nil
}

// firstBorder finds the first offset from which records follow each other to the end of data; the last one may be torn. The
// content of records may look like records: a guest that plays with that spoils its own child's scrollback and no more. One
// pass from the end looks at each offset once, whatever the guest has written.
func firstBorder(data []byte) int {
	first := len(data)
	leads := make([]bool, len(data)+1) // whether records lead from here to the end
	for at := max(0, len(data)-link.RecordHeader+1); at <= len(data); at++ {
		leads[at] = true // what is shorter than a header is torn
	}
	for at := len(data) - link.RecordHeader; at >= 0; at-- {
		next, ok := recordEnd(data, at)
		if leads[at] = ok && (next > len(data) || leads[next]); leads[at] {
			first = at
		}
	}
	return first
}

// recordEnd says where the record ends whose header seems to be at an offset.
func recordEnd(data []byte, at int) (int, bool) {
	if s := link.RecordStream(data[at]); s < link.StreamStdout || s > link.StreamRun || data[at+1]|data[at+2]|data[at+3] != 0 {
		return 0, false
	}
	n := binary.BigEndian.Uint32(data[at+4:])
	return at + link.RecordHeader + int(n), n <= link.MaxRecord
}
