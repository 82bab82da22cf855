package clone

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

// copyLog copies the end of the log in one home to another: whole records.
func copyLog(from, to string) error {
	f, err := os.Open(filepath.Join(from, hostapi.LogFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot copy the log: %w", err)
	}
	defer f.Close()
	data, err := logEnd(f)
	if err == nil {
		err = os.WriteFile(filepath.Join(to, hostapi.LogFile), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot copy the log: %w", err)
	}
	return nil
}

// logEnd returns the last whole records of a log, hostapi.InheritedLog bytes of them at most.
func logEnd(f *os.File) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	from := max(0, info.Size()-hostapi.InheritedLog)
	data, err := io.ReadAll(io.NewSectionReader(f, from, info.Size()-from))
	if err != nil {
		return nil, err
	}
	if from > 0 {
		data = data[firstBorder(data):]
	}
	good, _ := link.ScanRecords(bytes.NewReader(data)) // what is wrong behind that is a tail that is being written
	return data[:good], nil
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
