package stream

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
)

// maxHeld bounds how much of a line is kept until its end comes, in bytes of each stream: a longer line is passed on in pieces.
const maxHeld = link.MaxRecord

// piece is a line of a log, or a part of one.
type piece struct {
	stream link.RecordStream
	time   time.Time // of the record in which it ends
	data   []byte    // valid until the next one
	first  bool      // it begins a line
	last   bool      // it ends one: by a line feed, or with the run
}

// lines makes lines of records: what a process writes to its two streams comes in the order in which lines end, as in Docker's log, so that
// a prompt on one stream and a message on the other do not share a line.
type lines struct {
	emit      func(piece) error
	immediate bool // pieces of lines are passed on as they come: there is one stream
	held      [2]heldLine
	begun     int // lines so far
}

// heldLine is a line of one stream whose end is still to come.
type heldLine struct {
	data   []byte
	time   time.Time
	within bool // the line has begun
	order  int  // among the lines that have begun
}

// add takes a record.
func (l *lines) add(rec link.Record) error {
	if endsLines(rec) {
		return l.flush()
	}
	n, ok := index(rec.Stream)
	if !ok {
		return nil
	}
	h := &l.held[n]
	for line := range bytes.Lines(rec.Payload) {
		if !h.within && len(h.data) == 0 {
			l.begun++
			h.order = l.begun
		}
		h.time = rec.Time
		whole := line[len(line)-1] == '\n'
		if whole && len(h.data) == 0 { // the usual case is not copied
			if err := l.emit(piece{rec.Stream, rec.Time, line, !h.within, true}); err != nil {
				return err
			}
			h.within = false
			continue
		}
		h.data = append(h.data, line...)
		if whole || l.immediate || len(h.data) >= maxHeld {
			if err := l.pass(n, whole); err != nil {
				return err
			}
		}
	}
	return nil
}

// pass emits what is held of a stream.
func (l *lines) pass(n int, last bool) error {
	h := &l.held[n]
	p := piece{streams[n], h.time, h.data, !h.within, last}
	h.data, h.within = h.data[:0], !last
	return l.emit(p)
}

// flush ends the lines that have no end: no more comes of them.
func (l *lines) flush() error {
	order := []int{0, 1}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(l.held[a].order, l.held[b].order) })
	for _, n := range order {
		if l.held[n].within || len(l.held[n].data) > 0 {
			if err := l.pass(n, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// streams are those that have lines.
var streams = [2]link.RecordStream{link.StreamStdout, link.StreamStderr}

// index is the place of a stream in streams.
func index(s link.RecordStream) (n int, ok bool) {
	n = slices.Index(streams[:], s)
	return n, n >= 0
}

// endsLines reports whether a record ends the lines before it: another run begins there, or something is missing.
func endsLines(rec link.Record) bool {
	if rec.Stream == link.StreamGap {
		return true
	}
	marker, err := hostapi.ParseMarker(string(rec.Payload))
	return rec.Stream == link.StreamRun && (err != nil || !marker.Continued)
}
