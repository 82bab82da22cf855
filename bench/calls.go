package main

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/containervm/containervm/bench/internal/measure"
)

// Call is a vim25 call of the controller, as its HTTP client saw it.
type Call struct {
	Method string  `json:"method"`
	Ms     float64 `json:"ms"`
}

// recorder times vim25 calls. It is a provider of govmomi's vim25/debug, which opens a file for each part of a round
// trip: "<client>-<request>.req.headers", ".req.xml", ".res.headers", ".res.xml", and closes the bodies at its end.
type recorder struct {
	mu    sync.Mutex
	open  map[string]*trip // by "<client>-<request>"
	calls []Call
}

type trip struct {
	begin   time.Time
	request bytes.Buffer
}

func newRecorder() *recorder { return &recorder{open: map[string]*trip{}} }

// method is the first element of the SOAP body.
var method = regexp.MustCompile(`<(?:\w+:)?Body[^>]*><(?:\w+:)?(\w+)`)

// NewFile implements debug.Provider.
func (r *recorder) NewFile(name string) io.WriteCloser {
	id, part, _ := strings.Cut(name, ".")
	r.mu.Lock()
	defer r.mu.Unlock()
	switch part {
	case "req.headers":
		r.open[id] = &trip{begin: time.Now()}
	case "req.xml":
		if t := r.open[id]; t != nil {
			return &tripFile{write: t.request.Write}
		}
	case "res.xml":
		return &tripFile{close: func() { r.finish(id) }}
	}
	return &tripFile{}
}

// Flush implements debug.Provider.
func (r *recorder) Flush() {}

func (r *recorder) finish(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.open[id]
	delete(r.open, id)
	if t == nil {
		return
	}
	if m := method.FindSubmatch(t.request.Bytes()); m != nil {
		r.calls = append(r.calls, Call{string(m[1]), measure.Millis(time.Since(t.begin))})
	}
}

// take returns the calls since the last take. Calls that wait for something to happen by design are left out.
func (r *recorder) take() []Call {
	r.mu.Lock()
	defer r.mu.Unlock()
	var done []Call
	for _, c := range r.calls {
		if c.Method != "WaitForUpdatesEx" && c.Method != "WaitForUpdates" {
			done = append(done, c)
		}
	}
	r.calls = nil
	return done
}

// total is the milliseconds of all calls.
func total(calls []Call) (ms float64) {
	for _, c := range calls {
		ms += c.Ms
	}
	return ms
}

// tripFile is one file of a round trip.
type tripFile struct {
	write func([]byte) (int, error)
	close func()
}

func (p *tripFile) Write(b []byte) (int, error) {
	if p.write != nil {
		return p.write(b)
	}
	return len(b), nil
}

func (p *tripFile) Close() error {
	if p.close != nil {
		p.close()
	}
	return nil
}
