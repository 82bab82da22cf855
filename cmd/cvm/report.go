package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
)

// reportFD is the descriptor on which the background process tells its parent how its start goes.
const reportFD = 3

// reportLine is one line on that descriptor; exactly one field is set.
type reportLine struct {
	Progress string      `json:"progress,omitempty"`
	Ready    *hostStatus `json:"ready,omitempty"`
	Error    string      `json:"error,omitempty"`
}

// reporter is the background process's side. Until it is ready it passes on what is logged, as progress.
type reporter struct {
	mu sync.Mutex
	w  io.WriteCloser // nil once the parent needs to know no more
}

func newReporter(w io.WriteCloser) *reporter { return &reporter{w: w} }

// send writes a line and, when it is the last one, closes the pipe. A parent that has gone away is no error.
func (r *reporter) send(l reportLine, last bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.w == nil {
		return
	}
	_ = json.NewEncoder(r.w).Encode(l)
	if last {
		r.w.Close()
		r.w = nil
	}
}

func (r *reporter) ready(s hostStatus) { r.send(reportLine{Ready: &s}, true) }

// fail reports err, if it is one, and returns it.
func (r *reporter) fail(err error) error {
	if err != nil {
		r.send(reportLine{Error: err.Error()}, true)
	}
	return err
}

// Enabled, Handle, WithAttrs and WithGroup make the reporter a slog.Handler.
func (r *reporter) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

func (r *reporter) Handle(_ context.Context, rec slog.Record) error {
	r.send(reportLine{Progress: rec.Message}, false)
	return nil
}

func (r *reporter) WithAttrs([]slog.Attr) slog.Handler { return r }
func (r *reporter) WithGroup(string) slog.Handler      { return r }

// errNoReport says that the background process ended without a word: it was killed, or it panicked.
var errNoReport = errors.New("it ended before it was ready")

// readReport is the parent's side: it returns when the host is ready or has failed.
func readReport(r io.Reader, progress func(string)) (hostStatus, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var l reportLine
		switch err := json.Unmarshal(lines.Bytes(), &l); {
		case err != nil:
			return hostStatus{}, fmt.Errorf("cannot read its report: %w", err)
		case l.Ready != nil:
			return *l.Ready, nil
		case l.Error != "":
			return hostStatus{}, errors.New(l.Error)
		}
		progress(l.Progress)
	}
	return hostStatus{}, errors.Join(errNoReport, lines.Err())
}

// fanout is a slog.Handler that hands every record to each of its handlers.
type fanout []slog.Handler

// Enabled reports whether any handler wants the level.
func (f fanout) Enabled(ctx context.Context, l slog.Level) bool {
	for _, h := range f {
		if h.Enabled(ctx, l) {
			return true
		}
	}
	return false
}

// Handle gives the record to every handler that wants it.
func (f fanout) Handle(ctx context.Context, r slog.Record) error {
	var errs []error
	for _, h := range f {
		if h.Enabled(ctx, r.Level) {
			errs = append(errs, h.Handle(ctx, r.Clone()))
		}
	}
	return errors.Join(errs...)
}

// WithAttrs adds attributes to every handler.
func (f fanout) WithAttrs(attrs []slog.Attr) slog.Handler {
	return f.each(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

// WithGroup opens a group in every handler.
func (f fanout) WithGroup(name string) slog.Handler {
	return f.each(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

func (f fanout) each(change func(slog.Handler) slog.Handler) fanout {
	out := make(fanout, len(f))
	for i, h := range f {
		out[i] = change(h)
	}
	return out
}
