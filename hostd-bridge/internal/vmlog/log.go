package vmlog

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
)

// Log is the log of a machine that runs: its guest appends to it, and clients follow it.
type Log struct {
	dir    *os.Root
	marker hostapi.Marker // of the run
	first  func()         // called at the first output of the run, unless nil
	begun  sync.Once      // first

	mu      sync.Mutex
	limits  hostapi.Log
	files   []*file // at least one; the last is written to
	holders map[*Place]bool
	ended   bool
	let     bool          // nobody is waited for any more: the machine ends
	changed chan struct{} // closed when the log grows or ends
	moved   chan struct{} // closed when a holder has got on
}

// Open opens the log in a directory, which it takes over, cuts off a torn tail and marks the start of a run. first, which may be nil, is called at the run's first
// output.
func Open(dir *os.Root, limits hostapi.Log, marker hostapi.Marker, now time.Time, first func()) (*Log, error) {
	l := &Log{
		dir: dir, marker: marker, limits: limits, first: first,
		holders: map[*Place]bool{}, changed: make(chan struct{}), moved: make(chan struct{}),
	}
	var err error
	if l.files, err = list(dir); err != nil {
		l.close()
		return nil, err
	}
	if limits.Discard {
		for _, f := range l.files {
			if err := f.remove(); err != nil {
				l.close()
				return nil, fmt.Errorf("cannot remove a file of the machine's log: %w", err)
			}
		}
		l.files = nil
	}
	if n := len(l.files); n > 0 {
		err = l.files[n-1].resume()
	} else {
		err = l.extend(0)
	}
	if err == nil {
		err = l.append(markerRecord(marker, now), now)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func markerRecord(m hostapi.Marker, now time.Time) []byte {
	return link.AppendRecord(nil, link.Record{Stream: link.StreamRun, Time: now, Payload: []byte(m.String())})
}

// SetLimits changes how much is kept. What is in the way of lower limits goes with the next record.
func (l *Log) SetLimits(limits hostapi.Log, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.limits
	if l.limits = limits; limits.Discard == before.Discard {
		return nil
	}
	if err := l.begin(now); err != nil {
		l.limits = before
		return err
	}
	for len(l.files) > 1 { // none of them is where it belongs
		if err := l.drop(); err != nil {
			return err
		}
	}
	return nil
}

// append writes whole records of one write, at most link.MaxRecord of payload.
func (l *Log) append(b []byte, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := l.files[len(l.files)-1]
	if size, _ := l.limits.Bounds(); last.size > 0 && last.size+int64(len(b)) > size {
		if err := l.rotate(now); err != nil {
			return err
		}
		last = l.files[len(l.files)-1]
	}
	n, err := last.open.WriteAt(b, last.size)
	if err != nil {
		_ = last.open.Truncate(last.size) // best effort: the next start cuts a torn record too
		return fmt.Errorf("cannot write the machine's log (%d of %d bytes): %w", n, len(b), err)
	}
	last.size += int64(n)
	wake(&l.changed)
	return nil
}

// rotate begins another file, and drops the oldest ones beyond the limit once those who hold them have got on. What is dropped goes before the
// new file grows, so that the limit holds. mu is held, but not while it waits.
func (l *Log) rotate(now time.Time) error {
	for {
		_, most := l.limits.Bounds()
		if len(l.files) < most || !l.held(l.files[len(l.files)-most].end()) {
			break
		}
		moved := l.moved
		l.mu.Unlock()
		<-moved
		l.mu.Lock()
	}
	if err := l.begin(now); err != nil {
		return err
	}
	for _, most := l.limits.Bounds(); len(l.files) > most; {
		if err := l.drop(); err != nil {
			return err
		}
	}
	return nil
}

// held reports whether a reader that is waited for has yet to get what lies before an offset.
func (l *Log) held(end int64) bool {
	if l.let {
		return false
	}
	for h := range l.holders {
		if h.at < end {
			return true
		}
	}
	return false
}

// begin begins another file with the marker of the run that goes on.
func (l *Log) begin(now time.Time) error {
	if err := l.extend(l.files[len(l.files)-1].end()); err != nil {
		return err
	}
	goesOn := l.marker
	goesOn.Continued = true
	b, last := markerRecord(goesOn, now), l.files[len(l.files)-1]
	if _, err := last.open.WriteAt(b, 0); err != nil {
		l.files = l.files[:len(l.files)-1]
		return errors.Join(fmt.Errorf("cannot begin a file of the machine's log: %w", err), last.remove())
	}
	last.size = int64(len(b))
	return nil
}

// extend adds an empty file that begins with an offset.
func (l *Log) extend(offset int64) error {
	f, err := create(l.dir, offset, !l.limits.Discard)
	if err == nil {
		l.files = append(l.files, f)
	}
	return err
}

// drop removes the oldest file.
func (l *Log) drop() error {
	oldest := l.files[0]
	l.files = l.files[1:]
	if err := oldest.remove(); err != nil {
		return fmt.Errorf("cannot remove the oldest file of the machine's log: %w", err)
	}
	return nil
}

// wake closes a channel and makes another in its place.
func wake(c *chan struct{}) {
	close(*c)
	*c = make(chan struct{})
}

// LetGo has nobody waited for any more: the machine ends, and a reader that stands still must not keep it.
func (l *Log) LetGo() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.let = true
	wake(&l.moved)
}

// Finish lets followers come to their end. The log is not written any more.
func (l *Log) Finish() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	wake(&l.changed)
}

func (l *Log) close() {
	for _, f := range l.files {
		f.close()
	}
	if l.dir != nil {
		l.dir.Close()
	}
}

// Receive appends the records of a guest's connection until the guest has ended its half: when it returns nil all of them are
// in the log, and the end of the connection may tell the guest so. The time is that of arrival: one clock for all guests.
func (l *Log) Receive(r io.Reader, now func() time.Time) error {
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
		if rec.Stream != link.StreamStdout && rec.Stream != link.StreamStderr {
			return fmt.Errorf("cannot take a record of stream %s from a guest", rec.Stream)
		}
		rec.Time = now()
		b = link.AppendRecord(b[:0], rec)
		if err := l.append(b, rec.Time); err != nil {
			return err
		}
		if l.first != nil {
			l.begun.Do(l.first)
		}
	}
}
