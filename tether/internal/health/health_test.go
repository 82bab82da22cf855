package health

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// bench is a monitor whose checks have the results that the test says.
type bench struct {
	m      *Monitor
	cancel context.CancelFunc
	begun  time.Time

	mu     sync.Mutex
	told   []*tetherv1.HealthStatus
	at     []time.Duration // of the checks, since the start
	script []int32         // exit codes; 0 when there are no more
	takes  time.Duration
}

func start(t *testing.T, spec *tetherv1.Health, script ...int32) *bench {
	t.Helper()
	b := &bench{script: script, begun: time.Now()}
	b.m = New(spec, b.check, func(s *tetherv1.HealthStatus) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.told = append(b.told, s)
	})
	ctx, cancel := context.WithCancel(t.Context())
	b.cancel = cancel
	go b.m.Run(ctx)
	synctest.Wait()
	return b
}

func (b *bench) check(ctx context.Context) *tetherv1.HealthResult {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at = append(b.at, time.Since(b.begun))
	select {
	case <-time.After(b.takes):
	case <-ctx.Done():
		return nil
	}
	r := &tetherv1.HealthResult{StartUnixNano: int64(len(b.at))}
	if len(b.script) > 0 {
		r.ExitCode, b.script = b.script[0], b.script[1:]
	}
	return r
}

// after lets time pass and returns what was told last.
func (b *bench) after(d time.Duration) *tetherv1.HealthStatus {
	time.Sleep(d)
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.told[len(b.told)-1]
}

func (b *bench) stop() {
	b.cancel()
	<-b.m.Done()
}

func wants(t *testing.T, s *tetherv1.HealthStatus, state tetherv1.HealthStatus_State, streak uint32, results int) {
	t.Helper()
	if s.State != state || s.FailingStreak != streak || len(s.Results) != results {
		t.Errorf("%v; want %v, %d failures, %d results", s, state, streak, results)
	}
}

const (
	starting  = tetherv1.HealthStatus_STARTING
	healthy   = tetherv1.HealthStatus_HEALTHY
	unhealthy = tetherv1.HealthStatus_UNHEALTHY
)

func TestMonitor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &tetherv1.Health{Interval: int64(10 * time.Second), Retries: 2}, 0, 1, 1, 2, 0)
		wants(t, b.after(9*time.Second), starting, 0, 0)
		wants(t, b.after(2*time.Second), healthy, 0, 1)
		wants(t, b.after(10*time.Second), healthy, 1, 2)
		wants(t, b.after(10*time.Second), unhealthy, 2, 3)
		wants(t, b.after(10*time.Second), unhealthy, 3, 4)
		wants(t, b.after(10*time.Second), healthy, 0, 5)
		last := b.after(20 * time.Second)
		wants(t, last, healthy, 0, 5)
		if first := last.Results[0].StartUnixNano; first != 3 {
			t.Errorf("the oldest result told is number %d, want 3", first)
		}
		b.stop()
	})
}

// TestStartPeriod: failures do not count in it, checks come at its own pace, and a success ends it.
func TestStartPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &tetherv1.Health{
			Interval: int64(10 * time.Second), StartPeriod: int64(7 * time.Second), StartInterval: int64(2 * time.Second), Retries: 1,
		}, 1, 1, 1, 1)
		wants(t, b.after(7*time.Second), starting, 0, 3)
		wants(t, b.after(2*time.Second), unhealthy, 1, 4)
		b.stop()
		b = start(t, &tetherv1.Health{
			Interval: int64(10 * time.Second), StartPeriod: int64(time.Hour), StartInterval: int64(time.Second), Retries: 1,
		}, 1, 0, 1)
		wants(t, b.after(3*time.Second), healthy, 0, 2)
		wants(t, b.after(10*time.Second), unhealthy, 1, 3)
		b.stop()
	})
}

// TestRest: nothing is checked while the container is paused, and a check that ran then does not count.
func TestRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &tetherv1.Health{Interval: int64(10 * time.Second)}, 0)
		b.mu.Lock()
		b.takes = 5 * time.Second
		b.mu.Unlock()
		time.Sleep(12 * time.Second) // a check runs
		b.m.Rest(true)
		b.m.Rest(true) // as before
		b.m.Rest(false)
		b.m.Rest(true)
		wants(t, b.after(time.Hour), starting, 0, 0)
		b.m.Rest(false)
		wants(t, b.after(16*time.Second), healthy, 0, 1)
		if len(b.at) != 2 {
			t.Errorf("checks at %v", b.at)
		}
		b.stop()
		b.m.Rest(true) // nobody hangs
	})
}

// TestPace: a check every millisecond is made, and the host is told twice in a second; the last word is not lost.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &tetherv1.Health{Interval: int64(time.Millisecond), Retries: 1})
		b.after(10 * time.Second)
		b.mu.Lock()
		if len(b.at) < 9000 || len(b.told) > 22 {
			t.Errorf("%d checks, told %d times", len(b.at), len(b.told))
		}
		b.script = []int32{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}
		b.mu.Unlock()
		time.Sleep(8 * time.Millisecond)
		b.stop()
		if last := b.told[len(b.told)-1]; last.State != unhealthy {
			t.Errorf("the last word is %v", last)
		}
	})
}

// TestTell: a fork tells its own host what its source knew.
func TestTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &tetherv1.Health{Interval: int64(time.Second)})
		b.after(1500 * time.Millisecond)
		n := len(b.told)
		b.m.Tell()
		wants(t, b.after(0), healthy, 0, 1)
		if len(b.told) != n+1 {
			t.Errorf("told %d times more", len(b.told)-n)
		}
		b.stop()
	})
}

func TestBeginning(t *testing.T) {
	var b beginning
	_, _ = b.Write([]byte("ok\xff"))
	if got := b.String(); got != "ok\uFFFD" {
		t.Errorf("%q", got)
	}
	if n, err := b.Write([]byte(strings.Repeat("x", 2*maxOutput))); err == nil || n != maxOutput-3 {
		t.Errorf("%d bytes taken, %v", n, err)
	}
	if got := b.String(); !strings.HasSuffix(got, "x...") || len(got) > maxOutput+6 {
		t.Errorf("%d bytes", len(got))
	}
}

func FuzzBeginning(f *testing.F) {
	f.Add([]byte("a\xff"), []byte("\xe4\xb8"))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		var b beginning
		_, _ = b.Write(first)
		_, _ = b.Write(second)
		if s := b.String(); !utf8.ValidString(s) || len(s) > 3*maxOutput+3 {
			t.Errorf("%q", s)
		}
	})
}
