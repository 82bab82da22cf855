package supervisor

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/containervm/containervm/tether/link"
)

// logFile is a machine's stdio.log: the guest appends to it, and clients follow it.
type logFile struct {
	file  *os.File
	first func() // called at the first output of the run, unless nil

	mu      sync.Mutex
	size    int64
	ended   bool
	changed chan struct{} // closed when it grows or ends
	begun   sync.Once     // first
}

// openLog opens the log, cuts off a torn tail and marks the start of the machine, with the text of the marker.
func openLog(path, marker string, now time.Time) (*logFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, fmt.Errorf("cannot open the machine's log: %w", err)
	}
	good, _ := link.ScanRecords(f) // what follows the last whole record is cut off, whatever is wrong with it
	if err := f.Truncate(good); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot cut the torn tail of the machine's log: %w", err)
	}
	l := &logFile{file: f, size: good, changed: make(chan struct{})}
	if err := l.append(link.AppendRecord(nil, link.Record{Stream: link.StreamRun, Time: now, Payload: []byte(marker)})); err != nil {
		f.Close()
		return nil, err
	}
	return l, nil
}

// append writes whole records.
func (l *logFile) append(b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.file.WriteAt(b, l.size)
	if err != nil {
		l.file.Truncate(l.size) // best effort: the next start cuts a torn record too
		return fmt.Errorf("cannot write the machine's log (%d of %d bytes): %w", n, len(b), err)
	}
	l.size += int64(n)
	l.wakeLocked()
	return nil
}

// wakeLocked wakes all followers; mu is held.
func (l *logFile) wakeLocked() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// end lets followers come to their end.
func (l *logFile) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.wakeLocked()
}

func (l *logFile) state() (size int64, ended bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size, l.ended, l.changed
}

// copyTo copies the log from an offset to w; with follow it goes on until the machine ends or ctx does.
func (l *logFile) copyTo(ctx context.Context, w io.Writer, from int64, follow bool) error {
	for {
		size, ended, changed := l.state()
		if size > from {
			n, err := io.Copy(w, io.NewSectionReader(l.file, from, size-from))
			if err != nil {
				return err
			}
			from += n
			continue
		}
		if ended || !follow {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// receive appends the records of a guest's connection until the guest has ended its half: when it returns nil all of them are
// in the file, and the end of the connection may tell the guest so. The time is that of arrival: one clock for all guests.
func (l *logFile) receive(r io.Reader, now func() time.Time) error {
	records := link.NewRecordReader(r)
	var b []byte
	for {
		rec, err := records.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if rec.Stream == link.StreamRun {
			return fmt.Errorf("cannot take a record of stream %s from a guest", rec.Stream)
		}
		rec.Time = now()
		b = link.AppendRecord(b[:0], rec)
		if err := l.append(b); err != nil {
			return err
		}
		if l.first != nil {
			l.begun.Do(l.first)
		}
	}
}
