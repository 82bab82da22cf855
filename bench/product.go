package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containervm/containervm/bench/internal/measure"
)

// Values of HostConfig.Runtime: how a containerVM comes up.
const (
	runtimeFork = "fork"
	runtimeBoot = "boot"
)

// Names of the sides that are containerVM itself, in every group that has them.
const (
	ourFork       = "containerVM, forked cold"
	ourPrestarted = "containerVM, forked from a pre-started QEMU"
	ourWarm       = "containerVM, forked warm"
	ourBoot       = "containerVM, booted"
)

// span is what of a container's life a sample times.
type span int

const (
	toFirstByte span = iota // from the request to create it to the first byte of its process
	ofStart                 // from the request to start it to that
	ofRun                   // of a whole `docker run --rm`: create, attach, start, wait, remove
)

// product measures containers of an embedded host that come up by a runtime. It is where containerVM's own ways come
// into the groups: one that the host does not have says so, and is measured as soon as it has it.
type product struct {
	host    *host
	runtime string
	span    span
}

// ways are containerVM's own ways to start, for groups in which they are measured by turns.
func (e *environment) ways(ctx context.Context, h *host, s span) []measure.Side {
	return []measure.Side{
		product{h, runtimeFork, s}.side(ctx, ourFork),
		e.poolSide(ctx, ourPrestarted, pools{prestart: 1}, s),
		e.poolSide(ctx, ourWarm, pools{warm: 1}, s),
		product{h, runtimeBoot, s}.side(ctx, ourBoot),
	}
}

func (e *environment) poolSide(ctx context.Context, name string, p pools, s span) measure.Side {
	h, err := e.pooled(ctx, p)
	if err != nil {
		return measure.Side{Name: name, NotRun: err.Error()}
	}
	return product{h, runtimeFork, s}.side(ctx, name)
}

// side is the start of a container, unless the host cannot.
func (p product) side(ctx context.Context, name string) measure.Side {
	return measure.Side{Name: name, Measure: p.measure, NotRun: p.missing(ctx)}
}

// warmUps is how many containers may boot before the first is forked: the host may be making its template meanwhile.
const warmUps = 10

// missing says why the host's containers do not come up by this runtime. It starts some until one does, so the template is
// there before the first that is measured.
func (p product) missing(ctx context.Context) string {
	var err error
	for range warmUps {
		if _, err = p.measure(ctx); !errors.Is(err, errNotForked) {
			break
		}
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// errNotForked: the host chose to boot a container that was to be forked.
var errNotForked = errors.New("the container was not forked")

// startTimeout ends what hangs; a burst on a busy machine takes a minute.
const startTimeout = 5 * time.Minute

// measure takes a fresh container from its creation to its removal. What the host keeps ready is there before and after: making
// it is in no one's figure.
func (p product) measure(ctx context.Context) (s measure.Sample, err error) {
	if err := p.refill(ctx); err != nil {
		return s, err
	}
	limited, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	l, err := p.live(limited)
	if err == nil {
		err = p.check(l)
	}
	return p.sample(l), errors.Join(err, p.refill(ctx))
}

func (p product) refill(ctx context.Context) error {
	if p.host.pools == (pools{}) {
		return nil
	}
	return p.host.settle(ctx)
}

// check refuses a container that came up in another way than it was to.
func (p product) check(l life) error {
	switch {
	case p.runtime != runtimeFork:
		return nil
	case l.fork.Kind != runtimeFork: // the host chose to boot it, for whatever reason
		return fmt.Errorf("%w: %s", errNotForked, orElse(l.fork.Why, "the host does not say why"))
	default:
		return p.host.pools.check(l.fork, l.asked)
	}
}

// Marks of a container's start beside those of its timeline.
const (
	markCreated  = "docker create answered"
	markAnswered = "docker start answered"
	markCalls    = "vim25 calls"
	markCallTime = "vim25 calls, ms"
)

func (p product) sample(l life) measure.Sample {
	begin := l.asked
	if p.span == ofStart {
		begin = l.started.begin
	}
	since := func(at time.Time, ms float64) float64 { return measure.Millis(at.Sub(begin)) + ms }
	s := measure.Sample{Value: since(l.started.begin, l.started.first), Marks: l.fork.marks(begin)}
	if p.span == ofRun {
		s.Marks = append(s.Marks, measure.Mark{Name: "first byte", Value: s.Value})
		s.Value = l.all
	}
	if p.span != ofStart {
		s.Marks = append(s.Marks, measure.Mark{Name: markCreated, Value: since(l.asked, l.created)})
	}
	s.Marks = append(s.Marks, measure.Mark{Name: markAnswered, Value: since(l.started.begin, l.started.answered)},
		measure.Mark{Name: markCalls, Of: measure.OfFigures, Value: float64(len(l.calls))},
		measure.Mark{Name: markCallTime, Of: measure.OfFigures, Value: total(l.calls)})
	s.Marks = append(s.Marks, l.console...)
	return s
}
