package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/containervm/containervm/tether/internal/process"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// maxOutput is how much of a check's output is kept, in bytes: Docker's number.
const maxOutput = 4096

// group is the name of the part of the container's processes in which checks run.
const group = "health"

// failed is the exit code of a check that did not end in time, or could not be started.
const failed = -1

// Of returns the check of a container by the process p. One that takes too long is ended with all that checks have started.
func Of(c *process.Container, p *tetherv1.Process, timeout time.Duration) Check {
	return func(ctx context.Context) *tetherv1.HealthResult {
		r := &tetherv1.HealthResult{StartUnixNano: time.Now().UnixNano()}
		var err error
		r.ExitCode, r.Output, err = run(ctx, c, p)
		r.EndUnixNano = time.Now().UnixNano()
		switch {
		case errors.Is(ctx.Err(), context.Canceled), errors.Is(err, process.ErrPaused), errors.Is(err, process.ErrForked), errors.Is(err, process.ErrEnded):
			return nil
		case ctx.Err() != nil && r.ExitCode == failed:
			r.Output = fmt.Sprintf("Health check exceeded timeout (%v)", orElse(int64(timeout), usualTimeout)) + behind(r.Output)
		case err != nil:
			r.Output = valid(err.Error())
		}
		return r
	}
}

func behind(output string) string {
	if output == "" {
		return ""
	}
	return ": " + output
}

// run runs p to its end, or to that of ctx: the code is failed then.
func run(ctx context.Context, c *process.Container, p *tetherv1.Process) (code int32, output string, err error) {
	g, err := c.NewGroup(group)
	if err != nil && !errors.Is(err, process.ErrNoCgroup) {
		return failed, "", err
	}
	if g != nil {
		defer g.Close()
	}
	s, err := c.Run(p, g)
	if err != nil {
		return failed, "", err
	}
	var head beginning
	defer head.read(s.Stdout, s.Stderr)()
	select {
	case <-s.Done():
	case <-ctx.Done():
		kill(s, g)
		<-s.Done()
		return failed, head.String(), nil
	}
	exit, err := s.Wait(ctx) // at once
	head.complete()
	return exit.GetCode(), head.String(), err
}

// kill ends a check with all that it has started. Where there are no cgroups, it ends alone.
func kill(s *process.Session, g *process.Group) {
	if g == nil || g.Kill() != nil {
		_ = s.Signal(9) // it has ended else
	}
}

// beginning is the first bytes of a process's output.
type beginning struct {
	readers sync.WaitGroup

	mu   sync.Mutex
	text []byte
	cut  bool
}

// read begins to read rings, from their start. What comes behind the first bytes is not waited for. stop ends the reading.
func (b *beginning) read(rings ...*process.Ring) (stop func()) {
	var open []io.Closer
	for _, ring := range rings {
		r, err := ring.Reader(0, true)
		if err != nil {
			continue // cannot be: offset 0 exists
		}
		open = append(open, r)
		b.readers.Go(func() {
			defer r.Close()
			_, _ = io.Copy(b, r) // ends when b has enough, or with the stream
		})
	}
	return func() {
		for _, r := range open {
			_ = r.Close()
		}
		b.readers.Wait()
	}
}

// complete waits until all that there is has been read: the streams have ended.
func (b *beginning) complete() { b.readers.Wait() }

// errEnough ends the reading.
var errEnough = errors.New("enough")

// Write keeps what there is room for.
func (b *beginning) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	room := maxOutput - len(b.text)
	b.text = append(b.text, p[:min(room, len(p))]...)
	if len(p) > room {
		b.cut = true
		return room, errEnough
	}
	return len(p), nil
}

// String is the text as valid UTF-8, with three dots behind it if there was more.
func (b *beginning) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cut {
		return valid(string(b.text)) + "..."
	}
	return valid(string(b.text))
}

func valid(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }
