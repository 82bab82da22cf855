package stream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"

	"github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/tether/link"
)

// tail finds where the last lines of a log begin. Positions count a byte of a payload as the offset of its record plus
// its index in the payload, so they order bytes as the file does.
type tail struct {
	lines []lineStart // ring of the last ones
	next  int
	full  bool
	begin map[link.RecordStream]int64
	end   int64 // behind the last record that was read
}

type lineStart struct {
	pos, record int64
	which       link.RecordStream
}

// maxTail bounds the memory that finding the last lines takes; more lines are all lines.
const maxTail = 1 << 20

// findTail reads the log once.
func (s *Service) findTail(ctx context.Context, c container.Container, opt LogOptions) (*tail, error) {
	t := &tail{begin: map[link.RecordStream]int64{link.StreamStdout: math.MaxInt64, link.StreamStderr: math.MaxInt64}}
	if opt.Tail > maxTail {
		t.begin, t.end = nil, math.MaxInt64
		return t, nil
	}
	t.lines = make([]lineStart, opt.Tail)
	r, at, err := s.host.OpenLog(ctx, c.VM.Ref, 0, false, false)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if at, err = t.scan(r, at, opt); err != nil {
		return nil, fmt.Errorf("cannot read the log of %s: %w", &c, err)
	}
	t.finish(at)
	return t, nil
}

func (t *tail) scan(r io.Reader, at int64, opt LogOptions) (end int64, err error) {
	want := selection{opt.Stdout, opt.Stderr}
	open := map[link.RecordStream]bool{}
	records := link.NewRecordReader(r)
	for {
		rec, err := records.Next()
		if err == io.EOF {
			return at, nil
		}
		if err != nil {
			return at, err
		}
		late := !opt.Until.IsZero() && rec.Time.After(opt.Until)
		if want.has(rec.Stream) && !rec.Time.Before(opt.Since) && !late {
			pos := at
			for line := range bytes.Lines(rec.Payload) {
				if !open[rec.Stream] {
					t.push(lineStart{pos: pos, record: at, which: rec.Stream})
				}
				pos += int64(len(line))
				open[rec.Stream] = line[len(line)-1] != '\n'
			}
		}
		at += int64(link.RecordHeader + len(rec.Payload))
	}
}

func (t *tail) push(l lineStart) {
	if len(t.lines) == 0 {
		return
	}
	t.lines[t.next] = l
	t.next = (t.next + 1) % len(t.lines)
	t.full = t.full || t.next == 0
}

// finish sets where each stream begins: at its first line among the last ones, else behind all that was read.
func (t *tail) finish(end int64) {
	t.end = end
	for s := range t.begin {
		t.begin[s] = end
	}
	for _, l := range t.kept() {
		t.begin[l.which] = min(t.begin[l.which], l.pos)
	}
}

func (t *tail) kept() []lineStart {
	if t.full {
		return t.lines
	}
	return t.lines[:t.next]
}

// start is the offset of the record to begin with.
func (t *tail) start() int64 {
	if t.begin == nil {
		return 0
	}
	least := int64(math.MaxInt64)
	for _, l := range t.kept() {
		least = min(least, l.record)
	}
	if least < math.MaxInt64 {
		return least
	}
	return t.begin[link.StreamStdout] // no line is wanted: the end
}
