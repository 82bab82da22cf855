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
	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// life is what was seen of a container, from its creation to its removal.
type life struct {
	asked   time.Time // when it was to be created
	created float64   // ms until that was answered
	started started
	all     float64 // ms until its removal was answered, without the looking at it
	calls   []Call  // of the controller, until its first byte
	fork    forkReport
	console []measure.Mark // phases of a boot
}

// live takes a container of one word through its life, as `docker run --rm` does.
func (p product) live(ctx context.Context) (l life, err error) {
	p.host.calls.take()
	l.asked = time.Now()
	id, err := p.host.create(ctx, p.runtime, "/busybox", "echo", peer.Greeting)
	if err != nil {
		return l, err
	}
	l.created = measure.Millis(time.Since(l.asked))
	if l.started, err = p.host.startUntil(ctx, id, peer.Greeting); err == nil {
		l.calls = p.host.calls.take()
		err = p.host.ended(ctx, id)
	}
	looked := time.Now()
	if err == nil {
		err = p.describe(ctx, id, &l)
	}
	aside := time.Since(looked)
	err = errors.Join(err, p.host.remove(ctx, id))
	l.all = measure.Millis(time.Since(l.asked) - aside)
	return l, err
}

// describe learns how the container came up. It has ended: what the guest tells of its start may be behind its output.
func (p product) describe(ctx context.Context, id string, l *life) (err error) {
	if l.fork, err = p.host.inspectFork(ctx, id); err == nil && p.runtime == runtimeBoot && p.host.local() {
		l.console, err = consolePhases(filepath.Join(p.host.datastore, id, hostapi.ConsoleFile))
	}
	return err
}

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
