package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containervm/containervm/bench/internal/measure"
	"github.com/containervm/containervm/bench/internal/peer"
)

// burstGroup measures many at once: the weak spot of a machine with few processors.
func burstGroup(ctx context.Context, e *environment) (measure.Group, error) {
	h, err := e.host(ctx)
	if err != nil {
		return measure.Group{}, err
	}
	m, err := e.machine(ctx)
	if err != nil {
		return measure.Group{}, err
	}
	t, err := e.template(ctx, m, "burst", templateDirtyMiB)
	if err != nil {
		return measure.Group{}, err
	}
	burst := e.o.sizes.burst
	g := measure.Group{
		Title: "Many at once", Unit: "ms", Axis: "started at once",
		About:  "from the first request to the first byte of the last process; all machines are alive then",
		Probes: e.probes(m), Noise: at(qemuFork, slices.Min(burst), "at once"),
		Comparisons: burstComparisons(slices.Max(burst)),
	}
	fork, boot := product{h, runtimeFork, toFirstByte}, product{h, runtimeBoot, toFirstByte}
	g.Sides = append(g.Sides, curve(burst, ourFork, fork.missing(ctx), unprepared(fork.stay))...)
	g.Sides = append(g.Sides, curve(burst, ourBoot, boot.missing(ctx), unprepared(boot.stay))...)
	g.Sides = append(g.Sides, curve(burst, qemuFork, "", unprepared(t.ForkAlive))...)
	g.Sides = append(g.Sides, curve(burst, bootMicroVM, "", unprepared(m.BootAlive))...)
	for _, s := range e.ociSides(ctx) {
		g.Sides = append(g.Sides, curve(burst, s.Name, s.NotRun, unprepared(ended(s.Measure)))...)
	}
	return g, nil
}

func burstComparisons(n int) []measure.Comparison {
	many := func(series string) string { return at(series, n, "at once") }
	return []measure.Comparison{
		{Key: "H", Name: fmt.Sprintf("%d boots / %d forks, containerVM", n, n), Over: many(ourBoot), Under: many(ourFork), Goal: "at least 15 (25)"},
		{Key: "H", Name: fmt.Sprintf("%d boots / %d forks, QEMU alone", n, n), Over: many(bootMicroVM), Under: many(qemuFork), Goal: "at least 15 (25)"},
		{Name: fmt.Sprintf("%d forks, QEMU alone / %d runc run", n, n), Over: many(qemuFork), Under: many(runcRun)},
	}
}

// curve has a side for each number of attempts at once.
func curve(burstOf []int, series, notRun string, prepare func(context.Context) (attempt, error)) (sides []measure.Side) {
	for _, n := range burstOf {
		sides = append(sides, measure.Side{
			Name: at(series, n, "at once"), Series: series, X: float64(n), NotRun: notRun,
			Measure: func(ctx context.Context) (measure.Sample, error) { return burst(ctx, n, prepare) },
		})
	}
	return sides
}

// stay makes and starts a container whose process goes on. Making it is in the sample: that is when a fork comes to be.
func (p product) stay(ctx context.Context) (measure.Sample, func() error, error) {
	limited, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	asked := time.Now()
	id, err := p.host.create(limited, p.runtime, "/busybox", "sh", "-c", "echo "+peer.Greeting+"; exec /busybox sleep 1000")
	if err != nil {
		return measure.Sample{}, nil, err
	}
	end := func() error { return p.host.remove(ctx, id) }
	started, err := p.host.startUntil(limited, id, peer.Greeting)
	return measure.Sample{Value: measure.Millis(started.begin.Sub(asked)) + started.first}, end, err
}
