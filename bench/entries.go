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
	// needsRoot: it is left out without a tar of a root.
	needsRoot bool
}

func (e entry) rounds(n int) int { return max(2, n/e.divisor) }

// entries are in the order of measuring: what is sensitive first, and nothing beside a machine that idles.
func entries() []entry {
	return []entry{
		{"exec", "docker exec against a raw stream to the same guest", execGroup, 1, false},
		{"throughput", "docker exec's output against the raw stream", throughputGroup, 1, false},
		{"ssh", "ssh into a guest against exec through the link", sshGroup, 1, false},
		{"boot", "docker start of a container against a bare machine", bootGroup, 1, false},
		{"fork", "every way in which a process comes to its first byte, and the peers", forkGroup, 1, false},
		{"dirty", "fork and full restore over the memory that the template has written to", dirtyGroup, 1, false},
		{"freeze", "freezing a template against saving the whole machine", freezeGroup, 1, false},
		{"burst", "many at once", burstGroup, 5, false},
		{"memory", "what a machine takes of its host's memory, over time", memoryGroup, 3, false},
		{"unpack", "import of a Debian root against writing its tar", unpackGroup, 5, true},
	}
}
