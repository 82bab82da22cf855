package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/containervm/containervm/tether/internal/clock"
	"github.com/containervm/containervm/tether/internal/guestinfo"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

const (
	// clockNews is what a clock is off that the host is told of at once, and clockTold how long it is told nothing else.
	clockNews = 2 * time.Millisecond
	clockTold = 10 * time.Minute
)

// wallClock is the machine's clock, which is kept at the host's while a container runs.
type wallClock struct {
	keeper   clock.Keeper
	hurry    func() // has it looked at soon
	reporter *guestinfo.Reporter
	console  *slog.Logger
	last     tetherv1.ClockStatus // what the host was told
	cancel   func()
	ended    chan struct{}
}

// newWallClock asks the host what time it is.
func newWallClock(host *guestinfo.Client, reporter *guestinfo.Reporter, console *slog.Logger) (*wallClock, error) {
	machine, err := clock.NewMachine()
	if err != nil {
		return nil, err
	}
	w := &wallClock{hurry: machine.Hurry, reporter: reporter, console: console}
	ask := func(ctx context.Context) (time.Time, error) {
		ctx, cancel := context.WithTimeout(ctx, hostWait)
		defer cancel()
		return host.Time(ctx)
	}
	w.keeper = clock.Keeper{System: machine, Ask: ask, Tell: w.looked}
	return w, nil
}

// keep begins to keep the clock, until stop or the end of ctx. What was learned of it before still holds.
func (w *wallClock) keep(ctx context.Context) {
	ctx, w.cancel = context.WithCancel(ctx)
	w.ended = make(chan struct{})
	go func(ended chan<- struct{}) {
		defer close(ended)
		err := w.keeper.Run(ctx)
		if errors.Is(err, clock.ErrForeign) {
			w.last.Foreign = true
			w.tell()
		} else if err != nil {
			w.console.Warn("the clock is not kept", "err", err)
		}
	}(w.ended)
}

// stop returns when nobody keeps the clock any more.
func (w *wallClock) stop() {
	w.cancel()
	<-w.ended
}

// looked tells the host how far the clock was off, if that is news.
func (w *wallClock) looked(o clock.Offset) {
	if o.Behind.Abs() < clockNews && o.At.Sub(time.Unix(0, w.last.AtUnixNano)) < clockTold {
		return
	}
	w.last.BehindNanos, w.last.DoubtNanos = o.Behind.Nanoseconds(), o.Doubt.Nanoseconds()
	w.last.DriftPpb, w.last.AtUnixNano = int64(o.Drift*1000), o.At.UnixNano()
	w.tell()
}

func (w *wallClock) tell() {
	text, err := link.EncodeClock(&w.last)
	if err != nil {
		w.console.Error("cannot report the clock", "err", err)
		return
	}
	w.reporter.Set(link.KeyClock, text)
}
