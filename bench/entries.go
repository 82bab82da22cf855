package main

import (
	"context"

	"github.com/containervm/containervm/bench/internal/measure"
)

// entry is a group that can be measured.
type entry struct {
	name, about string
	build       func(context.Context, *environment) (measure.Group, error)
	// divisor of the rounds: of groups whose rounds are long.
	divisor int
	// quick groups are what a quick run has time for.
	quick bool
	// needsRoot: it is left out without a tar of a root.
	needsRoot bool
}

func (e entry) rounds(n int) int { return max(2, n/e.divisor) }

// entries are in the order of measuring: what a short run should not miss comes first.
func entries() []entry {
	return []entry{
		{name: "fork", about: "every way in which a process comes to its first byte, and the peers", build: forkGroup, divisor: 1, quick: true},
		{name: "run", about: "a whole docker run --rm, booted and forked", build: runGroup, divisor: 1},
		{name: "docker", about: "the same docker run --rm by the command line, here and on dockerd, alone and ten at once", build: dockerGroup, divisor: 1},
		{name: "dirty", about: "fork and full restore over the memory that the template has written to", build: dirtyGroup, divisor: 1, quick: true},
		{name: "burst", about: "many at once", build: burstGroup, divisor: 5, quick: true},
		{name: "memory", about: "what a machine takes of its host's memory, over time", build: memoryGroup, divisor: 3, quick: true},
		{name: "exec", about: "docker exec against a raw stream to the same guest", build: execGroup, divisor: 1, quick: true},
		{name: "freeze", about: "freezing a template against saving the whole machine", build: freezeGroup, divisor: 1},
		{name: "ssh", about: "ssh into a guest against exec through the link", build: sshGroup, divisor: 1},
		{name: "throughput", about: "docker exec's output against the raw stream", build: throughputGroup, divisor: 1},
		{name: "network", about: "throughput of a published port, and between two containers", build: networkGroup, divisor: 2, quick: true},
		{name: "roundtrip", about: "round trips in the same places", build: tripGroup, divisor: 2},
		{name: "boot", about: "docker start of a container against a bare machine", build: bootGroup, divisor: 1},
		{name: "unpack", about: "import of a Debian root against writing its tar", build: unpackGroup, divisor: 5, needsRoot: true},
	}
}
