package main

import (
	"context"
	"errors"

	"github.com/containervm/containervm/bench/internal/measure"
	"github.com/containervm/containervm/bench/internal/peer"
)

// memoryGroup measures what a machine takes of its host's memory that no other machine shares.
func memoryGroup(ctx context.Context, e *environment) (measure.Group, error) {
	h, err := e.host(ctx)
	if err != nil {
		return measure.Group{}, err
	}
	m, err := e.machine(ctx)
	if err != nil {
		return measure.Group{}, err
	}
	t, templateErr := e.template(ctx, m, "memory", templateDirtyMiB)
	moments := e.o.sizes.moments
	fork, boot := product{h, runtimeFork, toFirstByte}, product{h, runtimeBoot, toFirstByte}
	return measure.Group{
		Title: "Memory of one machine", Unit: "MiB",
		About: "pages of the guest's RAM that are the machine's alone (Anonymous in smaps; of a booted containerVM, the resident size of the file that they are in) when its process has written its first byte; private memory of QEMU itself is apart",
		Sides: []measure.Side{
			{Name: ourFork, NotRun: fork.missing(ctx), Measure: func(ctx context.Context) (measure.Sample, error) { return fork.memory(ctx, e.o) }},
			{Name: ourBoot, NotRun: boot.missing(ctx), Measure: func(ctx context.Context) (measure.Sample, error) { return boot.memory(ctx, e.o) }},
			side(qemuFork, templateErr, func(ctx context.Context) (measure.Sample, error) { return t.ForkMemory(ctx, moments) }),
			{Name: bootMicroVM, Measure: func(ctx context.Context) (measure.Sample, error) { return m.BootMemory(ctx, moments) }},
		},
		Comparisons: []measure.Comparison{
			{Key: "F", Name: "private memory with QEMU's own, boot / fork, containerVM", Over: ourBoot, Under: ourFork, Mark: peer.MarkAll, Goal: "at least 10 (40)"},
			{Key: "F", Name: "guest pages, boot / fork, containerVM", Over: ourBoot, Under: ourFork},
			{Key: "F", Name: "private memory with QEMU's own, boot / fork, QEMU alone", Over: bootMicroVM, Under: qemuFork, Mark: peer.MarkAll, Goal: "at least 10 (40)"},
			{Key: "F", Name: "guest pages, boot / fork, QEMU alone", Over: bootMicroVM, Under: qemuFork},
		},
		Noise: qemuFork,
	}, nil
}

// memory starts a container that stays, and has its host measure it.
func (p product) memory(ctx context.Context, o options) (s measure.Sample, err error) {
	id, err := p.host.create(ctx, p.runtime, "/busybox", "sh", "-c", "echo "+peer.Greeting+"; exec /busybox sleep 1000")
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, p.host.remove(ctx, id)) }()
	m, err := findMachine(ctx, p.host.endpoint, id)
	if err != nil {
		return s, err
	}
	limited, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if _, err := p.host.startUntil(limited, id, peer.Greeting); err != nil {
		return s, err
	}
	all, err := peer.Watch(ctx, o.sizes.moments, func() (measure.Memory, error) { return m.memory(ctx) })
	if err != nil {
		return s, err
	}
	return peer.MemorySample(all), nil
}
