package main

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"

	"github.com/containervm/containervm/bench/internal/measure"
	"github.com/containervm/containervm/bench/internal/peer"
)

// Names of the sides that peers are, in every group that has them.
const (
	qemuFloor      = "qemu -M none, to its greeting"
	qemuFork       = "fork, QEMU alone"
	qemuPrestarted = "fork, QEMU alone, pre-started"
	qemuClaim      = "claim of a running child, QEMU alone"
	bootMicroVM    = "cold boot, microvm"
	bootQ35        = "cold boot, q35"
	loadVM         = "-loadvm"
	restoreAll     = "full restore (-incoming)"
	kataStyle      = "template start after Kata (our re-creation)"
	cloneReboot    = "clone, then reboot"
	runcRun        = "runc run"
	crunRun        = "crun run"
)

// templateDirtyMiB is what the template of this group has written to: about what a runtime that was warmed up has.
const templateDirtyMiB = 32

// forkGroup is every way to a process's first byte that there is on this machine, in one interleaved run.
func forkGroup(ctx context.Context, e *environment) (measure.Group, error) {
	h, err := e.host(ctx)
	if err != nil {
		return measure.Group{}, err
	}
	m, err := e.machine(ctx)
	if err != nil {
		return measure.Group{}, err
	}
	sides := append(e.ways(ctx, h, toFirstByte),
		measure.Side{Name: qemuFloor, Measure: measure.Value(m.Floor)},
		measure.Side{Name: bootMicroVM, Measure: m.Boot},
		measure.Side{Name: bootQ35, Measure: m.Q35().Boot})
	sides = append(sides, e.templateSides(ctx, m)...)
	sides = append(sides, e.savedSides(ctx, m)...)
	sides = append(sides, e.ociSides(ctx)...)
	return measure.Group{
		Title: "Fork and peers", Unit: "ms",
		About:       "from the request (containerVM: docker create, then attach and start; peers: the start of their program, or the claim) to the first byte of a static busybox echo, written by itself",
		Sides:       sides,
		Comparisons: forkComparisons(),
		Probes:      e.probes(m), Noise: qemuFork,
	}, nil
}

func forkComparisons() []measure.Comparison {
	const firstByte = ", to the process's first byte"
	return []measure.Comparison{
		{Key: "A", Name: "boot / fork, containerVM, to the guest's first word", Over: ourBoot, Under: ourFork, Mark: markHello, Goal: "25 (40)"},
		{Key: "B", Name: "boot / fork from a pre-started QEMU, containerVM, to the guest's first word", Over: ourBoot, Under: ourPrestarted, Mark: markHello, Goal: "60 (100)"},
		{Name: "boot / fork, containerVM" + firstByte, Over: ourBoot, Under: ourFork, Goal: "at least 8"},
		{Name: "boot / fork from a pre-started QEMU, containerVM" + firstByte, Over: ourBoot, Under: ourPrestarted, Goal: "at least 8"},
		{Name: "boot / warm, containerVM" + firstByte, Over: ourBoot, Under: ourWarm, Goal: "at least 15"},
		{Key: "A", Name: "boot / fork, QEMU alone, to the first reply", Over: bootMicroVM, Under: qemuFork, Mark: peer.MarkReply, Goal: "25 (40)"},
		{Key: "B", Name: "boot / fork from a pre-started QEMU, QEMU alone, to the first reply", Over: bootMicroVM, Under: qemuPrestarted, Mark: peer.MarkReply, Goal: "60 (100)"},
		{Key: "C", Name: "boot / claim of a warm child, QEMU alone, to the first reply", Over: bootMicroVM, Under: qemuClaim, Mark: peer.MarkReply, Goal: "300 (1000)"},
		{Name: "boot / fork, QEMU alone" + firstByte, Over: bootMicroVM, Under: qemuFork},
		{Name: "full restore / fork, QEMU alone" + firstByte, Over: restoreAll, Under: qemuFork},
		{Name: "-loadvm / fork, QEMU alone" + firstByte, Over: loadVM, Under: qemuFork},
		{Name: "start after Kata / fork, QEMU alone" + firstByte, Over: kataStyle, Under: qemuFork},
		{Name: "start after Kata / fork, containerVM" + firstByte, Over: kataStyle, Under: ourFork},
		{Name: "clone and reboot / fork, QEMU alone" + firstByte, Over: cloneReboot, Under: qemuFork},
		{Key: "I", Name: "fork, containerVM / runc run" + firstByte, Over: ourFork, Under: runcRun},
		{Key: "I", Name: "fork from a pre-started QEMU, containerVM / runc run" + firstByte, Over: ourPrestarted, Under: runcRun, Goal: "at most 1.5 (1.0)"},
		{Key: "I", Name: "warm, containerVM / runc run" + firstByte, Over: ourWarm, Under: runcRun, Goal: "at most 1.5 (1.0)"},
		{Key: "I", Name: "fork, QEMU alone, pre-started / runc run" + firstByte, Over: qemuPrestarted, Under: runcRun, Goal: "at most 1.5 (1.0)"},
		{Name: "fork, QEMU alone, pre-started / crun run" + firstByte, Over: qemuPrestarted, Under: crunRun},
		{Name: "containerVM / QEMU alone, fork" + firstByte, Over: ourFork, Under: qemuFork},
		{Name: "containerVM / QEMU alone, fork from a pre-started QEMU" + firstByte, Over: ourPrestarted, Under: qemuPrestarted},
	}
}

// side is one that could be made, or says why not.
func side(name string, err error, f func(context.Context) (measure.Sample, error)) measure.Side {
	if err != nil {
		return measure.Side{Name: name, NotRun: err.Error()}
	}
	return measure.Side{Name: name, Measure: f}
}

// templateSides are the ways that map a template's memory.
func (e *environment) templateSides(ctx context.Context, m peer.Machine) []measure.Side {
	t, err := e.template(ctx, m, "fork", templateDirtyMiB)
	kata, kataErr := e.template(ctx, m.Q35(), "kata", templateDirtyMiB, peer.KataDevices()...)
	return []measure.Side{
		side(qemuFork, err, t.Fork),
		side(qemuPrestarted, err, t.ForkPrestarted),
		side(qemuClaim, err, t.Claim),
		side(cloneReboot, err, t.Reboot),
		side(kataStyle, kataErr, kata.Kata),
	}
}

// template is one that is deleted with the group.
func (e *environment) template(ctx context.Context, m peer.Machine, name string, dirtyMiB int, extra ...string) (*peer.Template, error) {
	t, err := m.NewTemplate(ctx, e.memory, name, dirtyMiB, extra...)
	if err == nil {
		e.deferred(t.Remove)
	}
	return t, err
}

// savedSides are the ways that read all of a machine's memory from a file.
func (e *environment) savedSides(ctx context.Context, m peer.Machine) []measure.Side {
	saved, err := m.NewSaved(ctx, e.memory, "saved", templateDirtyMiB)
	if err == nil {
		e.deferred(saved.Remove)
	}
	snapshot, snapshotErr := m.NewSnapshot(ctx, e.memory, "snapshot", templateDirtyMiB)
	if snapshotErr == nil {
		e.deferred(snapshot.Remove)
	}
	return []measure.Side{side(restoreAll, err, saved.Restore), side(loadVM, snapshotErr, snapshot.LoadVM)}
}

// ociSides are containers that share this machine's kernel. Each is tried once: whether it may make namespaces and
// cgroups here shows by that alone.
func (e *environment) ociSides(ctx context.Context) []measure.Side {
	b, err := peer.NewBundle(ctx, filepath.Join(e.dir, "bundle"))
	runc := func(ctx context.Context) (measure.Sample, error) { return b.Run(ctx, "runc") }
	crun := func(ctx context.Context) (measure.Sample, error) { return b.Run(ctx, "crun") }
	if plain := crun; peer.HybridCgroups() {
		crun = func(ctx context.Context) (measure.Sample, error) { return peer.WithoutUnified(ctx, plain) }
	}
	return []measure.Side{
		side(runcRun, errors.Join(err, tried(ctx, "runc", err, runc)), runc),
		side(crunRun, errors.Join(err, tried(ctx, "crun", err, crun)), crun),
	}
}

func tried(ctx context.Context, program string, err error, f func(context.Context) (measure.Sample, error)) error {
	if err != nil {
		return nil // is told already
	}
	if _, err := exec.LookPath(program); err != nil {
		return errors.New(program + " is not installed; try: scripts/install-deps bench")
	}
	_, err = f(ctx)
	return err
}
