package stream

import (
	"bytes"
	"context"
	"io"
	"testing"
	"time"

	"github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
)

// logHost is a host of one container that is off, whose log is data.
type logHost struct {
	Host
	data   []byte
	growth []byte // what a container adds to its log after each reading of it
}

// found are containers of which the only one is found by any name.
type found struct{ c container.Container }

func (f found) Get(string) (container.Container, error) { return f.c, nil }

func (f found) GetRunning(string) (container.Container, error) { return f.c, nil }

func (h *logHost) OpenLog(_ context.Context, _ vsphere.Ref, from int64, _, _ bool) (io.ReadCloser, int64, error) {
	r := bytes.NewReader(h.data[from:])
	h.data = append(h.data, h.growth...)
	return io.NopCloser(r), from, nil
}

// logOf encodes a log in which the n-th piece was written at second n. A piece begins with its stream: 1 or 2.
func logOf(pieces ...string) []byte {
	data := link.AppendRecord(nil, link.Record{Stream: link.StreamRun, Time: time.Unix(1, 0)})
	for i, p := range pieces {
		data = link.AppendRecord(data, link.Record{Stream: link.RecordStream(p[0] - '0'), Time: time.Unix(int64(i+1), 0), Payload: []byte(p[1:])})
	}
	return data
}

type textSink struct{ bytes.Buffer }

func (s *textSink) Write(_ link.RecordStream, p []byte) error {
	_, err := s.Buffer.Write(p)
	return err
}

func TestLogs(t *testing.T) {
	all := LogOptions{Stdout: true, Stderr: true, Tail: -1}
	with := func(change func(*LogOptions)) LogOptions {
		opt := all
		change(&opt)
		return opt
	}
	lines := []string{"1one\n", "2err\n", "1two\nthr", "2warn", "1ee\nfour", "2ing\n"}
	for _, c := range []struct {
		name string
		opt  LogOptions
		want string
	}{
		{"all", all, "one\nerr\ntwo\nthrwarnee\nfouring\n"},
		{"stdout", with(func(o *LogOptions) { o.Stderr = false }), "one\ntwo\nthree\nfour"},
		{"since", with(func(o *LogOptions) { o.Since = time.Unix(5, 0) }), "ee\nfouring\n"},
		{"until", with(func(o *LogOptions) { o.Until = time.Unix(2, 0) }), "one\nerr\n"},
		{"none of the lines", with(func(o *LogOptions) { o.Tail = 0 }), ""},
		{"last line, without its end", with(func(o *LogOptions) { o.Tail = 1 }), "four"},
		{"last lines of two streams", with(func(o *LogOptions) { o.Tail = 2 }), "warnfouring\n"},
		{"last three", with(func(o *LogOptions) { o.Tail = 3 }), "thrwarnee\nfouring\n"},
		{"more lines than there are", with(func(o *LogOptions) { o.Tail = 99 }), "one\nerr\ntwo\nthrwarnee\nfouring\n"},
		{"last two of stdout", with(func(o *LogOptions) { o.Tail, o.Stderr = 2, false }), "three\nfour"},
		{"times", with(func(o *LogOptions) { o.Timestamps, o.Stderr, o.Tail = true, false, 2 }),
			"1970-01-01T00:00:03.000000000Z three\n1970-01-01T00:00:05.000000000Z four"},
	} {
		s := New(&logHost{data: logOf(lines...)}, found{}, container.Timeouts{})
		_, write, err := s.Logs(context.Background(), "x", c.opt)
		if err != nil {
			t.Fatal(err)
		}
		var out textSink
		if err := write(&out); err != nil || out.String() != c.want {
			t.Errorf("%s: %q, %v; want %q", c.name, out.String(), err, c.want)
		}
	}
}

// TestLogTailOfAWriter asks for the last lines of a log that grows meanwhile: the lines that came later are not among them.
func TestLogTailOfAWriter(t *testing.T) {
	const begin = "1one\n"
	for n, want := range []string{"", "one\n", "one\n"} {
		host := &logHost{data: logOf(begin), growth: logOf("1two\n")}
		s := New(host, found{}, container.Timeouts{})
		_, write, err := s.Logs(context.Background(), "x", LogOptions{Stdout: true, Stderr: true, Tail: n})
		if err != nil {
			t.Fatal(err)
		}
		var out textSink
		if err := write(&out); err != nil || out.String() != want {
			t.Errorf("the last %d lines: %q, %v; want %q", n, out.String(), err, want)
		}
	}
}
