package clock

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"
)

// world is a host, its machine, and the time that passes for both.
type world struct {
	truth   time.Duration // since the start, by the host's clock
	mono    time.Duration // of the machine
	wall    time.Duration
	drift   float64 // ppm by which the machine's time is too slow
	steer   float64
	trip    func() time.Duration // one way of a question
	events  []event
	worst   time.Duration // most that the wall clock was off, after settle
	settle  time.Duration
	foreign bool
	steps   int
	t       *testing.T
}

// event is something that happens once, at a time of the host's.
type event struct {
	at time.Duration
	do func(*world)
}

var epoch = time.Unix(1_800_000_000, 0)

func (w *world) pass(d time.Duration) {
	for d > 0 {
		part := min(d, 100*time.Millisecond)
		d -= part
		w.truth += part
		mono := time.Duration(float64(part) * (1 - w.drift*1e-6))
		w.mono += mono
		w.wall += time.Duration(float64(mono) * (1 + w.steer*1e-6))
		for len(w.events) > 0 && w.truth >= w.events[0].at {
			do := w.events[0].do
			w.events = w.events[1:]
			do(w)
		}
		if off := (w.truth - w.wall).Abs(); w.truth > w.settle && off > w.worst {
			w.worst = off
		}
	}
}

// still has the machine stand still, as a host that sleeps or a snapshot does. What it is off after that counts again a minute and a
// half later: until then nobody in the machine can know.
func still(d time.Duration) func(*world) {
	return func(w *world) { w.truth += d; w.settle = w.truth + 90*time.Second }
}

func (w *world) Now() (time.Time, time.Duration) { return epoch.Add(w.wall), w.mono }
func (w *world) Steer(ppm float64) error {
	if ppm > maxSlew+maxDrift || ppm < -maxSlew-maxDrift {
		w.t.Errorf("steered by %v ppm", ppm)
	}
	w.steer = ppm
	return nil
}

func (w *world) Step(d time.Duration) error {
	if d.Abs() < maxStill {
		w.t.Errorf("stepped by %v", d)
	}
	w.wall += d
	w.steps++
	return nil
}
func (w *world) Foreign() (bool, error) { return w.foreign, nil }

func (w *world) Wait(ctx context.Context, d time.Duration) bool {
	w.pass(d)
	return ctx.Err() == nil
}

func (w *world) ask(context.Context) (time.Time, error) {
	w.pass(w.trip())
	answer := epoch.Add(w.truth)
	w.pass(w.trip())
	return answer, nil
}

// run keeps the clock for a time.
func (w *world) run(d time.Duration) (*Keeper, error) {
	ctx, cancel := context.WithCancel(w.t.Context())
	w.events = append(w.events, event{d, func(*world) { cancel() }})
	k := &Keeper{System: w, Ask: w.ask}
	return k, k.Run(ctx)
}

// TestKeeps keeps clocks for days, by the promise: within 10 ms of the host's.
func TestKeeps(t *testing.T) {
	quick := func() time.Duration { return 100*time.Microsecond + rand.N(200*time.Microsecond) }
	busy := func() time.Duration { // now and then the machine waits for a processor
		if rand.N(4) == 0 {
			return rand.N(80 * time.Millisecond)
		}
		return rand.N(2 * time.Millisecond)
	}
	for _, test := range []struct {
		name   string
		drift  float64
		trip   func() time.Duration
		begin  time.Duration // how far it is off at first
		events []event
		steps  int
		worst  time.Duration // 0: 10 ms
	}{
		{name: "as measured", drift: 28, trip: quick},
		{name: "fast", drift: -140, trip: quick},
		{name: "as bad as may be", drift: 400, trip: quick, worst: 30 * time.Millisecond},
		{name: "off at first", drift: 28, trip: quick, begin: 900 * time.Millisecond},
		{name: "right", trip: quick},
		{name: "on a busy host", drift: 28, trip: busy},
		{name: "a snapshot each hour", drift: 28, trip: quick, events: []event{
			{time.Hour, still(80 * time.Millisecond)}, {2 * time.Hour, still(51 * time.Millisecond)}, {3 * time.Hour, still(5 * time.Millisecond)}}},
		{name: "the host sleeps", drift: 28, trip: quick, events: []event{{time.Hour, still(8 * time.Hour)}}, steps: 1},
		{name: "it got warmer", drift: 28, trip: quick, events: []event{{time.Hour, func(w *world) { w.drift = 31 }}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := &world{t: t, drift: test.drift, trip: test.trip, wall: -test.begin, events: test.events, settle: time.Minute}
			k, err := w.run(48 * time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			if limit := max(test.worst, 10*time.Millisecond); w.worst > limit {
				t.Errorf("the clock was off by up to %v, want at most %v", w.worst, limit)
			}
			if w.steps != test.steps {
				t.Errorf("%d steps, want %d", w.steps, test.steps)
			}
			t.Logf("off by at most %v; drift %.1f, learned %.1f", w.worst, w.drift, k.drift)
		})
	}
}

// A container that sets its clock keeps it.
func TestLetsGo(t *testing.T) {
	w := &world{t: t, trip: func() time.Duration { return time.Millisecond / 10 }}
	w.events = []event{{time.Hour, func(w *world) { w.wall += time.Hour; w.foreign = true }}}
	if _, err := w.run(2 * time.Hour); !errors.Is(err, ErrForeign) {
		t.Errorf("%v", err)
	}
	if off := w.wall - w.truth; off < time.Hour-time.Second {
		t.Errorf("the clock that the container set was taken back to %v", off)
	}
}
