package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containervm/containervm/tether/internal/process"
	"github.com/containervm/containervm/tether/link"
	"github.com/containervm/containervm/tether/link/linktest"
)

// output is a process's output on its way to a host's log.
type output struct {
	io.WriteCloser // what the process writes
	log            *HostLog
	ring           *process.Ring
	copied         chan error
}

func startOutput(t *testing.T, dial func(context.Context) (net.Conn, error), patience time.Duration) *output {
	t.Helper()
	r, w := io.Pipe()
	o := &output{WriteCloser: w, log: NewHostLog(dial, slog.New(slog.DiscardHandler)), ring: process.NewRing(process.RingSize), copied: make(chan error, 1)}
	o.log.patience = patience
	reader, err := o.ring.Reader(0, true)
	must(t, err)
	go func() {
		_, _ = o.ring.ReadFrom(r)
		o.ring.End()
	}()
	go func() { o.copied <- o.log.Copy(t.Context(), link.StreamStdout, reader) }()
	return o
}

func (o *output) say(t *testing.T, text string) {
	t.Helper()
	_, err := io.WriteString(o, text)
	must(t, err)
}

func logged(h *linktest.Host) string {
	var b strings.Builder
	for _, r := range h.Records() {
		b.Write(r.Payload)
	}
	return b.String()
}

func TestHostLogSendsAllAgainAfterALoss(t *testing.T) {
	h := linktest.NewHost(t, nil)
	o := startOutput(t, func(context.Context) (net.Conn, error) { return h.Dial(link.ServiceLog) }, time.Hour)
	want := ""
	for _, text := range []string{"first ", "second ", strings.Repeat("much ", 500_000), "last"} {
		o.say(t, text)
		want += text
		h.Wait(t.Context(), "the text", func() bool { return logged(h) == want })
		h.Lose()
	}
	o.say(t, ".")
	must(t, o.Close())
	must(t, <-o.copied)
	must(t, o.log.Finish(t.Context()))
	if got := logged(h); got != want+"." {
		t.Errorf("the log has %d bytes, want %d", len(got), len(want)+1)
	}
	if h.LogEnds() == 0 {
		t.Error("the log was not ended in order")
	}
}

// A host that takes no log holds up the process for a while only, and one that comes back gets what there is.
func TestHostLogDoesNotHoldUpTheProcessForEver(t *testing.T) {
	h := linktest.NewHost(t, nil)
	var there atomic.Bool
	o := startOutput(t, func(context.Context) (net.Conn, error) {
		if !there.Load() {
			return nil, errors.New("nobody there")
		}
		return h.Dial(link.ServiceLog)
	}, time.Millisecond)
	o.say(t, strings.Repeat("x", 3*process.RingSize)) // returns only since bytes are dropped
	there.Store(true)
	o.say(t, "the end")
	h.Wait(t.Context(), "the end", func() bool { return strings.HasSuffix(logged(h), "the end") })
	must(t, o.Close())
	must(t, <-o.copied)
	must(t, o.log.Finish(t.Context()))
}

func TestHostLogEndsWithItsContext(t *testing.T) {
	ring := process.NewRing(0)
	reader, err := ring.Reader(0, true)
	must(t, err)
	_, err = ring.ReadFrom(strings.NewReader("text"))
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	log := NewHostLog(func(context.Context) (net.Conn, error) { cancel(); return nil, errors.New("nobody there") }, slog.New(slog.DiscardHandler))
	if err := log.Copy(ctx, link.StreamStdout, reader); err == nil {
		t.Error("the copy succeeded")
	}
	must(t, log.Finish(t.Context()))
}

// rings are those of a process that has written and ended.
func rings(t *testing.T, text string) (_ map[link.RecordStream]*process.Ring, ended <-chan struct{}) {
	t.Helper()
	out, errs := process.NewRing(0), process.NewRing(0)
	_, err := out.ReadFrom(strings.NewReader(text))
	must(t, err)
	out.End()
	errs.End()
	done := make(chan struct{})
	close(done)
	return map[link.RecordStream]*process.Ring{link.StreamStdout: out, link.StreamStderr: errs}, done
}

// An exit waits for the host's close and no longer: a host that does what spec.md says delays it by a round trip.
func TestHostLogEndsWithTheHostsClose(t *testing.T) {
	h := linktest.NewHost(t, nil)
	log := NewHostLog(func(context.Context) (net.Conn, error) { return h.Dial(link.ServiceLog) }, slog.New(slog.DiscardHandler))
	all, ended := rings(t, "text")
	must(t, log.Send(t.Context(), all, ended, time.Hour))
	if logged(h) != "text" || h.LogEnds() != 1 {
		t.Errorf("the log is %q after %d ends", logged(h), h.LogEnds())
	}
}

// A host that never closes does not keep a machine from its end.
func TestHostLogDoesNotWaitForEver(t *testing.T) {
	h := linktest.NewHost(t, nil)
	h.KeepLogOpen()
	log := NewHostLog(func(context.Context) (net.Conn, error) { return h.Dial(link.ServiceLog) }, slog.New(slog.DiscardHandler))
	all, ended := rings(t, "text")
	if err := log.Send(t.Context(), all, ended, 10*time.Millisecond); err == nil || !strings.Contains(err.Error(), "not confirmed the log within 10ms") {
		t.Errorf("the end of a log that was not confirmed: %v", err)
	}
	h.Wait(t.Context(), "the text", func() bool { return logged(h) == "text" })
}
