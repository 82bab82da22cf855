package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/containervm/containervm/bench/internal/measure"
	"github.com/containervm/containervm/bench/internal/peer"
)

// dirtyGroup measures forks and full restores over the memory that the template has written to: what tells forking from
// restoring. A machine has little more memory than that: a restore also pays for memory that no one wrote to.
func dirtyGroup(ctx context.Context, e *environment) (measure.Group, error) {
	m, err := e.machine(ctx)
	if err != nil {
		return measure.Group{}, err
	}
	sizes := e.o.sizes.dirtyMiB
	smallest, largest := slices.Min(sizes), slices.Max(sizes)
	g := measure.Group{
		Title: "Over the template's dirty memory", Unit: "ms", Axis: "MiB that the template has written to",
		About:  fmt.Sprintf("from the start of QEMU to the first byte of busybox echo; a machine has %d MiB more than is dirty; templates and states are on a tmpfs", spareMiB),
		Probes: e.probes(m), Noise: at(qemuFork, smallest, "MiB"),
	}
	for _, mib := range sizes {
		g.Sides = append(g.Sides, e.dirtySides(ctx, m.Memory(mib+spareMiB), mib)...)
		g.Comparisons = append(g.Comparisons, measure.Comparison{
			Key: "D", Name: fmt.Sprintf("full restore / fork, QEMU alone, %d MiB dirty", mib),
			Over: at(restoreAll, mib, "MiB"), Under: at(qemuFork, mib, "MiB"), Goal: goalD(mib),
		})
	}
	g.Comparisons = append(g.Comparisons, measure.Comparison{
		Key: "E", Name: fmt.Sprintf("fork, QEMU alone, at %d MiB / at %d MiB", largest, smallest),
		Over: at(qemuFork, largest, "MiB"), Under: at(qemuFork, smallest, "MiB"), Goal: "at most 1.05",
	})
	return g, nil
}

// spareMiB is what a guest has beside the memory that it writes to.
const spareMiB = 256

func (e *environment) dirtySides(ctx context.Context, m peer.Machine, mib int) []measure.Side {
	fork := measure.Side{Name: at(qemuFork, mib, "MiB"), Series: qemuFork, X: float64(mib)}
	restore := measure.Side{Name: at(restoreAll, mib, "MiB"), Series: restoreAll, X: float64(mib)}
	// Template, state and a child that has restored it are there at the same time.
	if free := availableMiB(); free < 3*mib+1024 {
		fork.NotRun = fmt.Sprintf("%d MiB of memory are free, %d are needed", free, 3*mib+1024)
		restore.NotRun = fork.NotRun
		return []measure.Side{fork, restore}
	}
	t, err := e.template(ctx, m, fmt.Sprintf("dirty-%d", mib), mib)
	if err == nil {
		fork.Measure = t.Fork
	} else {
		fork.NotRun = err.Error()
	}
	saved, err := m.NewSaved(ctx, e.memory, fmt.Sprintf("dirty-%d", mib), mib)
	if err == nil {
		restore.Measure = saved.Restore
		e.deferred(saved.Remove)
	} else {
		restore.NotRun = err.Error()
	}
	return []measure.Side{fork, restore}
}

func goalD(mib int) string {
	switch mib {
	case 512:
		return "at least 20"
	case 2048:
		return "at least 60"
	}
	return ""
}

// at names a point of a curve.
func at(series string, n int, unit string) string { return fmt.Sprintf("%s, %d %s", series, n, unit) }

// freezeGroup measures what it takes to make a template of a running machine.
func freezeGroup(ctx context.Context, e *environment) (measure.Group, error) {
	m, err := e.machine(ctx)
	if err != nil {
		return measure.Group{}, err
	}
	mib := e.o.sizes.dirtyMiB[min(1, len(e.o.sizes.dirtyMiB)-1)]
	live, err := m.Memory(mib+spareMiB).NewLive(ctx, e.memory, "live", mib)
	if err != nil {
		return measure.Group{}, err
	}
	e.deferred(live.Close)
	freeze, save := "freeze, QEMU alone", "full save (migration to a file)"
	return measure.Group{
		Title: "Freezing a template", Unit: "ms",
		About:       fmt.Sprintf("stop and save of a machine with %d MiB dirty, until QEMU says that the file is complete; then it must answer", mib),
		Sides:       []measure.Side{{Name: freeze, Measure: live.Freeze}, {Name: save, Measure: live.Save}},
		Comparisons: []measure.Comparison{{Key: "G", Name: "full save / freeze, QEMU alone", Over: save, Under: freeze, Goal: "at least 100"}},
		Probes:      e.probes(m), Noise: freeze,
	}, nil
}
