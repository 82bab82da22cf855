package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
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
	Name    string `json:"name"`
	Outcome string `json:"outcome"`
	Micros  int64  `json:"micros"`
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

// Moments of the timeline that are known here, all of the host's side. The guest may have some of the same name; they come
// after the host's.
const (
	markBegun    = "begun"    // the power-on or the clone
	markPrepared = "prepared" // QEMU is there
	markHello    = "hello"    // the guest's first word
)

// fromGuest is what the name of a moment ends in that the host has recorded before under the same name.
const fromGuest = " (guest)"

// marks are the timeline in milliseconds since begin, in the order of time, and what the items of the receipt took. What a
// machine did before that, which was made ahead of time, is not on the way.
func (f forkReport) marks(begin time.Time) (marks []measure.Mark) {
	seen := map[string]bool{}
	for _, m := range f.sorted() {
		name := m.Name
		if seen[name] {
			name += fromGuest
		}
		seen[name] = true
		if at := float64(m.UnixNano-begin.UnixNano()) / 1e6; at >= 0 {
			marks = append(marks, measure.Mark{Name: name, Value: at})
		}
	}
	for _, r := range f.Receipt {
		marks = append(marks, measure.Mark{Name: r.Name, Of: ofReceipt, Value: float64(r.Micros) / 1000})
	}
	return marks
}

func (f forkReport) sorted() []moment {
	return slices.SortedStableFunc(slices.Values(f.Timeline), func(a, b moment) int { return cmp.Compare(a.UnixNano, b.UnixNano) })
}

// at is the first moment of a name.
func (f forkReport) at(name string) (time.Time, bool) {
	for _, m := range f.sorted() {
		if m.Name == name {
			return time.Unix(0, m.UnixNano), true
		}
	}
	return time.Time{}, false
}
