package stream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi/hostclient"
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

func (found) Tell(*container.Container, events.Action, map[string]string) {}

// tagged is a container whose log lines have the details "tag=T".
func tagged() found {
	var c container.Container
	c.HostConfig.LogConfig.Config = map[string]string{"tag": "T"}
	return found{c}
}

func (h *logHost) OpenLog(_ context.Context, _ vsphere.Ref, from int64, _, _ bool) (*hostclient.Log, error) {
	r := bytes.NewReader(h.data[from:])
	h.data = append(h.data, h.growth...)
	return &hostclient.Log{ReadCloser: io.NopCloser(r), Offset: from}, nil
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

func (s *textSink) Fail(why string) error { return errors.New(why) }

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
		{"all", all, "one\nerr\ntwo\nthree\nwarning\nfour"},
		{"stdout", with(func(o *LogOptions) { o.Stderr = false }), "one\ntwo\nthree\nfour"},
		{"since", with(func(o *LogOptions) { o.Since = time.Unix(5, 0) }), "three\nwarning\nfour"},
		{"until", with(func(o *LogOptions) { o.Until = time.Unix(2, 0) }), "one\nerr\n"},
		{"none of the lines", with(func(o *LogOptions) { o.Tail = 0 }), ""},
		{"last line, without its end", with(func(o *LogOptions) { o.Tail = 1 }), "four"},
		{"last lines of two streams", with(func(o *LogOptions) { o.Tail = 2 }), "warning\nfour"},
		{"last three", with(func(o *LogOptions) { o.Tail = 3 }), "three\nwarning\nfour"},
		{"last four", with(func(o *LogOptions) { o.Tail = 4 }), "two\nthree\nwarning\nfour"},
		{"more lines than there are", with(func(o *LogOptions) { o.Tail = 99 }), "one\nerr\ntwo\nthree\nwarning\nfour"},
		{"stdout of the last three", with(func(o *LogOptions) { o.Tail, o.Stderr = 3, false }), "three\nfour"},
		{"stderr of the last two", with(func(o *LogOptions) { o.Tail, o.Stdout = 2, false }), "warning\n"},
		{"of the last three those until", with(func(o *LogOptions) { o.Tail, o.Until = 3, time.Unix(5, 0) }), "three\n"},
		{"times", with(func(o *LogOptions) { o.Timestamps, o.Tail = true, 3 }),
			"1970-01-01T00:00:05.000000000Z three\n1970-01-01T00:00:06.000000000Z warning\n1970-01-01T00:00:05.000000000Z four"},
		{"details", with(func(o *LogOptions) { o.Timestamps, o.Details, o.Tail = true, true, 1 }), "1970-01-01T00:00:05.000000000Z tag=T four"},
	} {
		s := New(&logHost{data: logOf(lines...)}, tagged(), container.Timeouts{})
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
		s := New(host, tagged(), container.Timeouts{})
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

// TestLogOfSeveralRuns: a line without an end ends with its run, but not where a file of the log ends.
func TestLogOfSeveralRuns(t *testing.T) {
	marker := func(data []byte, text string) []byte {
		return link.AppendRecord(data, link.Record{Stream: link.StreamRun, Payload: []byte(text)})
	}
	data := logOf("1a")
	data = append(marker(data, "run 1 continued"), logOf("1b")[link.RecordHeader:]...)
	data = append(marker(data, "run 2"), logOf("1c\n", "2d\n")[link.RecordHeader:]...)
	for tail, want := range map[int]string{-1: "tag=T abtag=T c\ntag=T d\n", 1: "tag=T d\n", 2: "tag=T c\ntag=T d\n", 3: "tag=T abtag=T c\ntag=T d\n"} {
		s := New(&logHost{data: data}, tagged(), container.Timeouts{})
		_, write, err := s.Logs(context.Background(), "x", LogOptions{Stdout: true, Stderr: true, Tail: tail, Details: true})
		if err != nil {
			t.Fatal(err)
		}
		var out textSink
		if err := write(&out); err != nil || out.String() != want {
			t.Errorf("tail %d: %q, %v; want %q", tail, out.String(), err, want)
		}
	}
}

// TestLogGap: what is missing of a log is told, and is no part of a line.
func TestLogGap(t *testing.T) {
	data := link.AppendRecord(logOf("1one\ntw"), link.Gap(1000))
	data = append(data, logOf("1ree\n")...)
	s := New(&logHost{data: data}, tagged(), container.Timeouts{})
	_, write, err := s.Logs(context.Background(), "x", LogOptions{Stdout: true, Stderr: true, Tail: -1})
	if err != nil {
		t.Fatal(err)
	}
	var out textSink
	want := "one\ntw[1000 bytes of the log are missing here: they were rotated away before they were read]\nree\n"
	if err := write(&out); err != nil || out.String() != want {
		t.Errorf("%q, %v; want %q", out.String(), err, want)
	}
}

// FuzzTail: the last lines are the end of all lines, whatever records they came in, and whichever streams are wanted.
func FuzzTail(f *testing.F) {
	f.Add([]byte("\x01a\nb\x02c\x01d\n\x03\x02e\n\x01f"), 3)
	f.Add([]byte("\x01a\x02\n\n\x01\n\x04\x02"), 2)
	f.Fuzz(func(t *testing.T, text []byte, n int) {
		if n < 0 || n > 100 {
			return
		}
		var data []byte
		for _, b := range text {
			if b <= 4 || len(data) == 0 {
				data = link.AppendRecord(data, [...]link.Record{
					{Stream: link.StreamStdout}, {Stream: link.StreamStdout}, {Stream: link.StreamStderr}, {Stream: link.StreamRun, Payload: []byte("run 2")},
					{Stream: link.StreamRun, Payload: []byte("run 2 continued")},
				}[min(b, 4)])
				continue
			}
			data = link.AppendRecord(data, link.Record{Stream: link.RecordStream(1 + b%2), Payload: []byte{b}})
		}
		read := func(opt LogOptions) (all []string) {
			_, write, err := New(&logHost{data: data}, tagged(), container.Timeouts{}).Logs(context.Background(), "x", opt)
			if err != nil {
				t.Fatal(err)
			}
			sink := pieceSink{}
			if err := write(&sink); err != nil {
				t.Fatal(err)
			}
			return sink
		}
		opt := LogOptions{Stdout: true, Stderr: true, Tail: -1, Details: true}
		all := read(opt)
		opt.Tail = n
		if got, want := read(opt), all[max(0, len(all)-n):]; !slices.Equal(got, want) {
			t.Errorf("%q: the last %d of %q are %q", text, n, all, got)
		}
	})
}

// pieceSink keeps what is written, write by write.
type pieceSink []string

func (s *pieceSink) Fail(why string) error { return errors.New(why) }

func (s *pieceSink) Write(which link.RecordStream, p []byte) error {
	*s = append(*s, which.String()+string(p))
	return nil
}
