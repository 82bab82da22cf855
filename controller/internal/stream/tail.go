package stream

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/tether/link"
)

// tail finds where the last lines of a log begin. Which lines are the last is decided by their ends.
type tail struct {
	last  []lineStart // ring of the last ones
	next  int
	full  bool
	open  [2]*lineStart // lines of both streams that have not ended
	ended [2]int64      // how many lines of each have
	end   int64         // behind the last record that was read
}

// lineStart is where a line begins, or where to begin reading for it.
type lineStart struct {
	record int64    // offset of a record
	ended  [2]int64 // how many lines had ended before that record
	stream int      // place in streams
	order  int64    // lines begin in this order
}

// maxTail bounds the memory that finding the last lines takes; more lines are all lines.
const maxTail = 1 << 20

// findTail reads the log once. A line that has no end yet counts, unless the log is followed, which writes it later.
func (s *Service) findTail(ctx context.Context, c container.Container, lines int, follow bool) (*tail, error) {
	t := &tail{last: make([]lineStart, lines)}
	r, err := s.host.OpenLog(ctx, c.VM.Ref, 0, false, false)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	t.end = r.Offset
	if err := t.scan(r); err != nil {
		return nil, fmt.Errorf("cannot read the log of %s: %w", &c, err)
	}
	if !follow {
		t.flush()
	}
	return t, nil
}

func (t *tail) scan(r io.Reader) error {
	records := link.NewRecordReader(r)
	for {
		rec, err := records.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		t.add(rec)
		t.end += rec.Length()
	}
}

func (t *tail) add(rec link.Record) {
	if endsLines(rec) {
		t.flush()
		return
	}
	n, ok := index(rec.Stream)
	if !ok {
		return
	}
	before := t.ended
	for line := range bytes.Lines(rec.Payload) {
		if t.open[n] == nil {
			t.open[n] = t.begin(n, before)
		}
		if line[len(line)-1] == '\n' {
			t.push(n)
		}
	}
}

// begin is where a line of a stream begins: no later than a line of the other one that is open, so that the end of that is seen, too, if it
// is the end of its run.
func (t *tail) begin(n int, ended [2]int64) *lineStart {
	if other := t.open[1-n]; other != nil {
		return &lineStart{record: other.record, ended: other.ended, stream: n, order: t.end}
	}
	return &lineStart{record: t.end, ended: ended, stream: n, order: t.end}
}

// push ends the line of a stream.
func (t *tail) push(n int) {
	l := *t.open[n]
	t.open[n] = nil
	t.ended[n]++
	if len(t.last) == 0 {
		return
	}
	t.last[t.next] = l
	t.next = (t.next + 1) % len(t.last)
	t.full = t.full || t.next == 0
}

// flush ends the lines without an end, in the order in which they began: as lines does.
func (t *tail) flush() {
	order := []int{0, 1}
	if a, b := t.open[0], t.open[1]; a != nil && b != nil && b.order < a.order {
		order = []int{1, 0}
	}
	for _, n := range order {
		if t.open[n] != nil {
			t.push(n)
		}
	}
}

// start says at which record to begin, how many ends of lines of each stream to skip from there, and where the log ended.
func (t *tail) start() (from int64, skip [2]int64, end int64) {
	kept := t.last[:t.next]
	if t.full {
		kept = t.last
	}
	first := lineStart{record: t.end, ended: t.ended}
	skip = t.ended
	for _, l := range kept {
		if l.record < first.record {
			first = l
		}
		skip[l.stream]--
	}
	for _, l := range t.open {
		if l != nil && l.record < first.record {
			first = *l
		}
	}
	for n := range skip {
		skip[n] -= first.ended[n]
	}
	return first.record, skip, t.end
}
