package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/logconf"
	"github.com/containervm/containervm/tether/link"
)

// LogOptions say what of a log is wanted.
type LogOptions struct {
	Stdout, Stderr bool
	Follow         bool
	Timestamps     bool      // each line begins with its time
	Details        bool      // each line begins with what its container's log configuration adds, behind the time
	Since, Until   time.Time // zero: no bound; of the ends of lines
	Tail           int       // the last lines of both streams, of which the wanted ones are written; negative: all
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
	if c.HostConfig.LogConfig.Type == logconf.None {
		return c, nil, logconf.ErrNotReadable
	}
	w := &logWriter{opt: opt, want: selection{opt.Stdout, opt.Stderr}, end: math.MaxInt64}
	w.opt.Follow = opt.Follow && c.Running() && (opt.Until.IsZero() || opt.Until.After(time.Now()))
	// Lines of one stream cannot get mixed, so that a part of one can be shown before its end comes.
	if opt.Details {
		names := logconf.Names{ID: c.ID, Name: c.Name, ImageID: c.ImageID.String()}
		w.details = logconf.Details(c.HostConfig.LogConfig, &c.Config, names)
	}
	w.lines.immediate = !opt.Timestamps && w.details == "" && (c.Config.Tty || !opt.Stdout || !opt.Stderr)
	from := int64(0)
	if opt.Tail >= 0 && opt.Tail <= maxTail {
		t, err := s.findTail(ctx, c, opt.Tail, w.opt.Follow)
		if err != nil {
			return c, nil, err
		}
		from, w.skip, w.end = t.start()
	}
	if w.opt.Follow {
		w.end = math.MaxInt64
	}
	cancel := func() {}
	if w.opt.Follow && !opt.Until.IsZero() {
		ctx, cancel = context.WithDeadline(ctx, opt.Until)
	}
	if w.log, err = s.open(ctx, &c, from, w.opt.Follow, false); err != nil {
		cancel()
		return c, nil, err
	}
	return c, func(out Sink) error {
		defer cancel()
		w.out = out
		return w.run(ctx, &c)
	}, nil
}

// run writes the log until its end, or while following until Until has come, which is when ctx ends.
func (w *logWriter) run(ctx context.Context, c *container.Container) error {
	defer w.log.Close()
	if err := w.copy(ctx); err != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("cannot read the log of %s: %w", c, err)
	}
	return nil
}

// logWriter writes the wanted part of a log.
type logWriter struct {
	out     Sink
	opt     LogOptions
	want    selection
	log     *follower
	end     int64    // the records from this offset on came too late to be among the last lines
	details string   // what each line begins with, behind the time
	skip    [2]int64 // for each of streams, how many ends of lines come before the first of the last lines
	lines   lines
}

// errUntil ends the reading of a log at a line that is too late.
var errUntil = errors.New("a line is later than what is wanted")

func (w *logWriter) copy(ctx context.Context) error {
	w.lines.emit = w.write
	for w.log.at < w.end {
		rec, err := w.log.Next(ctx)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := w.take(rec); err != nil {
			return ignore(err, errUntil)
		}
	}
	return ignore(w.lines.flush(), errUntil)
}

func ignore(err, which error) error {
	if errors.Is(err, which) {
		return nil
	}
	return err
}

func (w *logWriter) take(rec link.Record) error {
	if err := w.lines.add(rec); err != nil || rec.Stream != link.StreamGap {
		return err
	}
	return w.out.Write(link.StreamStderr, missing(rec))
}

// missing says that a part of a log is gone.
func missing(rec link.Record) []byte {
	return fmt.Appendf(nil, "[%d bytes of the log are missing here: they were rotated away before they were read]\n", rec.Gap())
}

// write writes a piece of a line, if it is wanted.
func (w *logWriter) write(p piece) error {
	if n, _ := index(p.stream); w.skip[n] > 0 {
		if p.last {
			w.skip[n]--
		}
		return nil
	}
	if !w.opt.Until.IsZero() && p.time.After(w.opt.Until) {
		return errUntil
	}
	if !w.want.has(p.stream) || p.time.Before(w.opt.Since) {
		return nil
	}
	if !p.first || !w.opt.Timestamps && w.details == "" {
		return w.out.Write(p.stream, p.data)
	}
	return w.out.Write(p.stream, append(w.head(p.time), p.data...))
}

// timestamp is Docker's layout: RFC 3339 with nine digits of fraction, so that lines sort.
const timestamp = "2006-01-02T15:04:05.000000000Z07:00"

// head is what stands before a line.
func (w *logWriter) head(at time.Time) []byte {
	var head []byte
	if w.opt.Timestamps {
		head = append(at.UTC().AppendFormat(head, timestamp), ' ')
	}
	if w.details != "" {
		head = append(append(head, w.details...), ' ')
	}
	return head
}
