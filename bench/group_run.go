package main

import (
	"context"

	"github.com/containervm/containervm/bench/internal/measure"
)

// runGroup is what a user waits for who runs one command in a container of its own.
func runGroup(ctx context.Context, e *environment) (measure.Group, error) {
	h, err := e.host(ctx)
	if err != nil {
		return measure.Group{}, err
	}
	return measure.Group{
		Title: "A whole docker run --rm of busybox echo", Unit: "ms", Ends: "removed",
		About: "create, attach, start, wait and remove by the API, to the answer of the last",
		Sides: e.ways(ctx, h, ofRun),
		Comparisons: []measure.Comparison{
			{Name: "docker run, booted / forked", Over: ourBoot, Under: ourFork, Goal: "at least 8"},
			{Name: "docker run, booted / forked from a pre-started QEMU", Over: ourBoot, Under: ourPrestarted, Goal: "at least 8"},
			{Name: "docker run, booted / warm", Over: ourBoot, Under: ourWarm, Goal: "at least 15"},
		},
		Probes: []measure.Probe{{Name: "/bin/true", Measure: probe}}, Noise: ourFork,
	}, nil
}
