package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/client"

	"github.com/containervm/containervm/bench/internal/measure"
)

// forkReport is the key "Fork" of `docker inspect`: how the container came up.
type forkReport struct {
	Kind       string // runtimeFork or runtimeBoot
	Why        string // why it is not what was asked for
	Template   string
	Generation int
	Index      int
	Receipt    []receiptItem
	Timeline   []moment
}

type receiptItem struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Micros int64  `json:"micros"`
}

type moment struct {
	Name     string `json:"name"`
	UnixNano int64  `json:"unixNano"` // of the host's clock
}

// inspectFork reads the report of a container; of a host that has none it is empty.
func (h *host) inspectFork(ctx context.Context, id string) (forkReport, error) {
	res, err := h.docker.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return forkReport{}, fmt.Errorf("cannot inspect container: %w", err)
	}
	return decodeFork(res.Raw)
}

// decodeFork reads the report of an inspect's JSON.
func decodeFork(inspect []byte) (forkReport, error) {
	var c struct{ Fork forkReport }
	if err := json.Unmarshal(inspect, &c); err != nil {
		return forkReport{}, fmt.Errorf("cannot understand inspect: %w", err)
	}
	return c.Fork, nil
}

// markHello is the moment of the timeline that comparisons know: the guest's first word.
const markHello = "guest hello"

// marks are the timeline in milliseconds since begin, in the order of time, and what the items of the receipt took.
func (f forkReport) marks(begin time.Time) (marks []measure.Mark) {
	timeline := slices.Clone(f.Timeline)
	slices.SortStableFunc(timeline, func(a, b moment) int { return int(a.UnixNano - b.UnixNano) })
	for _, m := range timeline {
		marks = append(marks, measure.Mark{Name: canonical(m.Name), Value: float64(m.UnixNano-begin.UnixNano()) / 1e6})
	}
	for _, r := range f.Receipt {
		marks = append(marks, measure.Mark{Name: r.Name, Of: ofReceipt, Value: float64(r.Micros) / 1000})
	}
	return marks
}

// canonical is how the report names a moment: "guest_hello", "guest-hello" and "Guest Hello" are one.
func canonical(name string) string {
	return strings.ToLower(strings.NewReplacer("_", " ", "-", " ", ".", " ").Replace(name))
}
