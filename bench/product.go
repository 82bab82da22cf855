package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/containervm/containervm/bench/internal/measure"
	"github.com/containervm/containervm/bench/internal/peer"
)

// Values of HostConfig.Runtime: how a containerVM comes up.
const (
	runtimeFork = "fork"
	runtimeBoot = "boot"
)

// Names of the sides that are containerVM itself, in every group that has them.
const (
	ourFork = "containerVM, forked"
	ourBoot = "containerVM, booted"
)

// product measures containers of the embedded host that come up by a runtime. It is where containerVM's own ways come
// into the groups: one that the host does not have says so, and is measured as soon as it has it.
type product struct {
	host    *host
	runtime string
}

// side is the start of a container, unless the host cannot.
func (p product) side(ctx context.Context, name string) measure.Side {
	return measure.Side{Name: name, Measure: p.start, NotRun: p.missing(ctx)}
}

// warmUps is how many containers may boot before the first is forked: the host may be making its template meanwhile.
const warmUps = 10

// missing says why the host's containers do not come up by this runtime. It starts some until one does, so the template is
// there before the first that is measured.
func (p product) missing(ctx context.Context) string {
	var err error
	for range warmUps {
		if _, err = p.start(ctx); !errors.Is(err, errNotForked) {
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

// start measures from the start of a fresh container to its process's first byte.
func (p product) start(ctx context.Context) (s measure.Sample, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	id, err := p.host.create(ctx, p.runtime, "/busybox", "echo", peer.Greeting)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, p.host.remove(ctx, id)) }()
	return p.startMade(ctx, id)
}

// startTimeout ends what hangs; a burst on a busy machine takes a minute.
const startTimeout = 5 * time.Minute

// startMade is start of a container that was created before.
func (p product) startMade(ctx context.Context, id string) (s measure.Sample, err error) {
	p.host.calls.take()
	started, err := p.host.startUntil(ctx, id, peer.Greeting)
	if err != nil {
		return s, err
	}
	calls := p.host.calls.take()
	// The timeline is whole when the container has ended: what the guest tells of it may be behind its output.
	if err := p.host.ended(ctx, id); err != nil {
		return s, err
	}
	fork, err := p.host.inspectFork(ctx, id)
	if err != nil {
		return s, err
	}
	// A container that the host chose to boot, for whatever reason, is no sample of a fork.
	if p.runtime == runtimeFork && fork.Kind != runtimeFork {
		return s, fmt.Errorf("%w: %s", errNotForked, orElse(fork.Why, "the host does not say why"))
	}
	s = measure.Sample{Value: started.first, Marks: fork.marks(started.begin)}
	s.Marks = append(s.Marks, measure.Mark{Name: markAnswered, Value: started.answered},
		measure.Mark{Name: markCalls, Of: measure.OfFigures, Value: float64(len(calls))},
		measure.Mark{Name: markCallTime, Of: measure.OfFigures, Value: total(calls)})
	if p.runtime == runtimeBoot && p.host.local() {
		var phases []measure.Mark
		phases, err = consolePhases(filepath.Join(p.host.datastore, id, "console.log"))
		s.Marks = append(s.Marks, phases...)
	}
	return s, err
}

// Marks of a container's start beside those of its timeline.
const (
	markAnswered = "docker start answered"
	markCalls    = "vim25 calls"
	markCallTime = "vim25 calls, ms"
)

// ofConsole and ofReceipt are what marks are parts of: the time between the lines of a guest's console, and the receipt.
const (
	ofConsole = "console"
	ofReceipt = "receipt"
)

// phase is the tether's line of a phase that it begins, stamped with the time since the kernel's start in seconds.
var phase = regexp.MustCompile(`^\[ *([0-9.]+)\] tether: (\w+)\s*$`)

// consolePhases are the times between the phases that a guest's console tells of; until the tether's first it is the
// kernel's.
func consolePhases(path string) (marks []measure.Mark, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the phases of a boot: %w", err)
	}
	defer f.Close()
	name, begin := "kernel", 0.0
	for lines := bufio.NewScanner(f); lines.Scan(); {
		m := phase.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		at, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return nil, fmt.Errorf("cannot read the phases of a boot: %w", err)
		}
		marks = append(marks, measure.Mark{Name: name, Of: ofConsole, Value: 1000 * (at - begin)})
		name, begin = m[2], at
	}
	return marks, nil
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}
