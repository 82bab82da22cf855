package stream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/tether/link"
)

// LogOptions say what of a log is wanted.
type LogOptions struct {
	Stdout, Stderr bool
	Follow         bool
	Timestamps     bool      // each line begins with its time
	Since, Until   time.Time // zero: no bound
	Tail           int       // the last lines; negative: all
}

// Logs opens a container's log and returns a function that writes it. Its end, and with it the last lines, is that of
// this moment; following goes on from there until the machine's end, or Until. ctx must end when write is not called.
func (s *Service) Logs(ctx context.Context, ref string, opt LogOptions) (c container.Container, write func(Sink) error, err error) {
	if !opt.Stdout && !opt.Stderr {
		return c, nil, errdefs.ErrInvalidArgument.WithMessage("you must choose at least one stream")
	}
	if c, err = s.containers.Get(ref); err != nil {
		return c, nil, err
	}
	w := &logWriter{opt: opt, want: selection{opt.Stdout, opt.Stderr}, end: math.MaxInt64}
	from := int64(0)
	if opt.Tail >= 0 {
		tail, err := s.findTail(ctx, c, opt)
		if err != nil {
			return c, nil, err
		}
		from, w.skip, w.end = tail.start(), tail.begin, tail.end
	}
	w.opt.Follow = opt.Follow && c.Running() && (opt.Until.IsZero() || opt.Until.After(time.Now()))
	if w.opt.Follow {
		w.end = math.MaxInt64
	}
	r, at, err := s.host.OpenLog(ctx, c.VM.Ref, from, w.opt.Follow, false)
	if err != nil {
		return c, nil, err
	}
	w.at = at
	return c, func(out Sink) error {
		w.out = out
		return w.run(&c, r)
	}, nil
}

// run writes the log until its end, or while following until Until has come.
func (w *logWriter) run(c *container.Container, r io.ReadCloser) error {
	defer r.Close()
	var late atomic.Bool
	if w.opt.Follow && !w.opt.Until.IsZero() {
		timer := time.AfterFunc(time.Until(w.opt.Until), func() {
			late.Store(true)
			r.Close()
		})
		defer timer.Stop()
	}
	if err := w.copy(r); err != nil && !late.Load() {
		return fmt.Errorf("cannot read the log of %s: %w", c, err)
	}
	return nil
}

// logWriter writes the wanted part of a log.
type logWriter struct {
	out  Sink
	opt  LogOptions
	want selection
	at   int64                       // offset of the next record in the file
	end  int64                       // the records from this offset on came too late to be among the last lines
	skip map[link.RecordStream]int64 // for each stream, the position of its first wanted byte
	open map[link.RecordStream]bool  // streams that are within a line
}

func (w *logWriter) copy(r io.Reader) error {
	w.open = map[link.RecordStream]bool{}
	records := link.NewRecordReader(r)
	for w.at < w.end {
		rec, err := records.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		at := w.at
		w.at += int64(link.RecordHeader + len(rec.Payload))
		if !w.opt.Until.IsZero() && rec.Time.After(w.opt.Until) {
			return nil
		}
		if !w.want.has(rec.Stream) || rec.Time.Before(w.opt.Since) {
			continue
		}
		if err := w.write(rec, w.cut(rec, at)); err != nil {
			return err
		}
	}
	return nil
}

// cut returns what of a record lies behind its stream's first wanted byte.
func (w *logWriter) cut(rec link.Record, at int64) []byte {
	if w.skip == nil {
		return rec.Payload
	}
	drop := w.skip[rec.Stream] - at
	return rec.Payload[min(max(drop, 0), int64(len(rec.Payload))):]
}

func (w *logWriter) write(rec link.Record, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if w.opt.Timestamps {
		p = w.stamp(rec, p)
	}
	return w.out.Write(rec.Stream, p)
}

// timestamp is Docker's layout: RFC 3339 with nine digits of fraction, so that lines sort.
const timestamp = "2006-01-02T15:04:05.000000000Z07:00"

// stamp puts the record's time before each line that begins in p.
func (w *logWriter) stamp(rec link.Record, p []byte) []byte {
	prefix := append(rec.Time.UTC().AppendFormat(nil, timestamp), ' ')
	var out bytes.Buffer
	for line := range bytes.Lines(p) {
		if !w.open[rec.Stream] {
			out.Write(prefix)
		}
		out.Write(line)
		w.open[rec.Stream] = line[len(line)-1] != '\n'
	}
	return out.Bytes()
}
