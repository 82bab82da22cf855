package vmlog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
)

// chunk is how much is read at once, in bytes: the longest record fits.
const chunk = 2 * (link.RecordHeader + link.MaxRecord)

// Reader says how a log is read.
type Reader struct {
	From   int64 // offset, at a border between records; negative: the present end
	Follow bool  // until the machine ends
	Hold   bool  // nothing is dropped that this reader has yet to get
}

// Place is where a reader is in a log.
type Place struct {
	Offset int64 // that it begins with
	reader Reader
	at     int64 // guarded by mu of the Log if it holds
}

// Place takes a reader's place. Copy, which has to follow, gives it up.
func (l *Log) Place(r Reader) *Place {
	l.mu.Lock()
	defer l.mu.Unlock()
	if end := l.files[len(l.files)-1].end(); r.From < 0 || r.From > end && l.limits.Discard { // whose offsets begin anew with each run
		r.From = end
	}
	p := &Place{Offset: r.From, reader: r, at: r.From}
	if r.Hold {
		l.holders[p] = true
	}
	return p
}

// Copy copies whole records to w from a reader's place. Where some are gone there is a record that says so (link.Gap).
func (l *Log) Copy(ctx context.Context, w io.Writer, p *Place) error {
	defer l.leave(p)
	buf := make([]byte, chunk)
	for at := p.Offset; ; {
		n, next, changed, err := l.read(buf, at)
		if err != nil {
			return err
		}
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			at = next
			l.move(p, at)
			continue
		}
		if changed == nil || !p.reader.Follow {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (l *Log) move(p *Place, at int64) {
	if !p.reader.Hold {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p.at = at
	wake(&l.moved)
}

func (l *Log) leave(p *Place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.holders, p)
	wake(&l.moved)
}

// read puts records from an offset on into buf, or a gap, and says how many bytes, and which offset follows. With none of them changed is
// closed when there may be more; nil: there never is.
func (l *Log) read(buf []byte, at int64) (n int, next int64, changed <-chan struct{}, err error) {
	for {
		opened, from, length, changed, err := l.find(at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // dropped by who writes it
		case err != nil:
			return 0, at, nil, err
		case opened == nil && length > 0: // missing
			return copy(buf, link.AppendRecord(nil, link.Gap(length))), at + length, nil, nil
		case opened == nil:
			return 0, at, changed, nil
		}
		n, err := opened.ReadAt(buf[:min(length, int64(len(buf)))], from)
		if errors.Is(err, os.ErrClosed) {
			continue // dropped meanwhile
		}
		if err != nil && err != io.EOF {
			return 0, at, nil, fmt.Errorf("cannot read the machine's log: %w", err)
		}
		if n, _ = Whole(buf[:n]); n == 0 {
			return l.skip(buf, at)
		}
		return n, at + int64(n), nil, nil
	}
}

// skip puts a gap into buf in the place of what is no record, up to the next file; without one the log ends there.
func (l *Log) skip(buf []byte, at int64) (n int, next int64, changed <-chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.files {
		if f.offset > at {
			return copy(buf, link.AppendRecord(nil, link.Gap(f.offset-at))), f.offset, nil, nil
		}
	}
	return 0, at, nil, nil
}

// find finds the file with an offset, where in it to read, and how much there is; without a file, how much is missing before the next one.
func (l *Log) find(at int64) (opened *os.File, from, length int64, changed <-chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n := 0; n < len(l.files); n++ {
		f := l.files[n]
		if at < f.offset {
			return nil, 0, f.offset - at, nil, nil
		}
		if at >= f.end() {
			continue
		}
		if opened, err = f.reader(); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				l.files = append(l.files[:n], l.files[n+1:]...)
			}
			return nil, 0, 0, nil, err
		}
		return opened, at - f.offset, f.end() - at, nil, nil
	}
	if l.ended {
		return nil, 0, 0, nil, nil
	}
	return nil, 0, 0, l.changed, nil
}

// CopyFiles copies the log in a directory to w from an offset on, as far as there are whole records, or with thisRun to where another run begins:
// for a VM whose machine does not run.
func CopyFiles(w io.Writer, path string, from int64, thisRun bool) error {
	dir, err := openDir(path)
	if err != nil {
		return err
	}
	l := &Log{dir: dir, ended: true}
	defer l.close()
	if l.files, err = list(dir); err != nil {
		return err
	}
	buf := make([]byte, chunk)
	for {
		n, next, _, err := l.read(buf, from)
		if err != nil || n == 0 {
			return err
		}
		data := buf[:n]
		if thisRun {
			data = untilRun(data)
		}
		if _, err := w.Write(data); err != nil || len(data) < n {
			return err
		}
		from = next
	}
}

// untilRun returns the records before the marker of another run.
func untilRun(data []byte) []byte {
	for at := 0; at < len(data); {
		n, rec := recordAt(data[at:])
		if rec.Stream == link.StreamRun {
			if m, err := hostapi.ParseMarker(string(rec.Payload)); err != nil || !m.Continued {
				return data[:at]
			}
		}
		at += n
	}
	return data
}

// CopyWhole copies the whole records that r yields to w, and says which offset of the log follows if they begin with at. A record that r ends
// within is left out.
func CopyWhole(w io.Writer, r io.Reader, at int64) (next int64, err error) {
	buf := make([]byte, chunk)
	for have := 0; ; {
		n, err := r.Read(buf[have:])
		have += n
		whole, length := Whole(buf[:have])
		if whole > 0 {
			if _, err := w.Write(buf[:whole]); err != nil {
				return at, err
			}
			at += length
			have = copy(buf, buf[whole:have])
		}
		switch {
		case err == io.EOF:
			return at, nil
		case err != nil:
			return at, err
		case have == len(buf):
			return at, errors.New("cannot copy the machine's log: what follows is no record")
		}
	}
}

// Whole says how many bytes of data, which begin at a border, are whole records, and how much of a log they stand for.
func Whole(data []byte) (n int, length int64) {
	for {
		size, rec := recordAt(data[n:])
		if size == 0 {
			return n, length
		}
		n += size
		length += rec.Length()
	}
}

// recordAt is the record that data begins with, and its size; 0: it is not whole, or none.
func recordAt(data []byte) (size int, rec link.Record) {
	if len(data) < link.RecordHeader {
		return 0, rec
	}
	rec.Stream = link.RecordStream(data[0])
	n := binary.BigEndian.Uint32(data[4:])
	if rec.Stream < link.StreamStdout || rec.Stream > link.StreamGap || n > link.MaxRecord || int(n) > len(data)-link.RecordHeader {
		return 0, rec
	}
	size = link.RecordHeader + int(n)
	rec.Payload = data[link.RecordHeader:size]
	return size, rec
}
