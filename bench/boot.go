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
)

// boots measures boots of containers and keeps what explains them.
type boots struct {
	host  *host
	calls []Call    // vim25 calls between start and first byte, of all boots
	vim   []float64 // their sum in each boot, ms
	start []float64 // until `docker start` was answered, ms
	spans map[string][]float64
	order []string // of spans
}

func newBoots(h *host) *boots { return &boots{host: h, spans: map[string][]float64{}} }

// measure returns the milliseconds from the start of a fresh container to its process's first byte.
func (b *boots) measure(ctx context.Context) (float64, error) {
	id, err := b.host.create(ctx, "/busybox", "echo", greeting)
	if err != nil {
		return 0, err
	}
	b.host.calls.take()
	first, answered, err := b.host.startUntil(ctx, id, greeting)
	if err == nil {
		calls := b.host.calls.take()
		b.calls, b.vim, b.start = append(b.calls, calls...), append(b.vim, total(calls)), append(b.start, answered)
		err = b.console(id)
	}
	return first, errors.Join(err, b.host.remove(ctx, id))
}

// phase is the tether's line of a phase that it begins, stamped with the time since the kernel's start in seconds.
var phase = regexp.MustCompile(`^\[ *([0-9.]+)\] tether: (\w+)\s*$`)

// console adds the time between the phases that a guest's console tells of; until the tether's first it is the kernel's.
func (b *boots) console(id string) error {
	f, err := os.Open(filepath.Join(b.host.datastore, id, "console.log"))
	if err != nil {
		return fmt.Errorf("cannot read the phases of a boot: %w", err)
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
			return fmt.Errorf("cannot read the phases of a boot: %w", err)
		}
		b.span(name, 1000*(at-begin))
		name, begin = m[2], at
	}
	return nil
}

func (b *boots) span(name string, ms float64) {
	if b.spans[name] == nil {
		b.order = append(b.order, name)
	}
	b.spans[name] = append(b.spans[name], ms)
}

// Span is a part of the boot.
type Span struct {
	Name string  `json:"name"`
	Ms   float64 `json:"medianMs"`
}

// profile is where the time of the median boot goes, in the guest.
func (b *boots) profile() []Span {
	var spans []Span
	for _, name := range b.order {
		spans = append(spans, Span{name, median(b.spans[name])})
	}
	return spans
}
