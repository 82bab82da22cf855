package main

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"time"
)

// Side is one of two things that are compared.
type Side struct {
	Name string
	// Measure does it once and returns what it took, in the unit of the case; less is better unless the case says otherwise.
	Measure func(context.Context) (float64, error)
}

// Case compares A, which is ours, with B, the floor or the peer.
type Case struct {
	Name string
	Unit string // of both sides: "ms", "MB/s"
	Goal string // for people, as the issue or the design states it
	A, B Side
}

// Round is one measurement of both sides, and of a floor that tells whether the machine was quiet.
type Round struct {
	A         float64 `json:"a"`
	B         float64 `json:"b"`
	Floor     float64 `json:"floorMs"`
	Error     string  `json:"error,omitempty"`
	Discarded bool    `json:"discarded,omitempty"`
}

func (r Round) counts() bool { return r.Error == "" && !r.Discarded }

// Result is a case and what came of it. Failures stay in Rounds, which is all raw samples.
type Result struct {
	Name      string  `json:"name"`
	Unit      string  `json:"unit"`
	Goal      string  `json:"goal"`
	A         string  `json:"a"`
	B         string  `json:"b"`
	MedianA   float64 `json:"medianA"`
	MedianB   float64 `json:"medianB"`
	Ratio     Ratio   `json:"ratio"`
	Noise     Ratio   `json:"noise"` // of B against itself, measured likewise
	Discarded int     `json:"discarded"`
	Failed    int     `json:"failed"`
	Rounds    []Round `json:"rounds"`
}

// run measures a case n times, A and B by turns in changing order, so that a drift of the machine hits both.
func run(ctx context.Context, c Case, n int, progress io.Writer) (Result, error) {
	rounds := make([]Round, 0, n)
	for i := range n {
		fmt.Fprintf(progress, "\r%s: round %d of %d", c.Name, i+1, n)
		r, err := oneRound(ctx, c, i%2 == 1)
		if err != nil {
			return Result{}, err
		}
		rounds = append(rounds, r)
	}
	fmt.Fprintln(progress)
	discardNoisy(rounds)
	return sumUp(c, rounds), nil
}

// oneRound keeps the failure of a side in the round; its own error is that the whole run is to end.
func oneRound(ctx context.Context, c Case, swapped bool) (Round, error) {
	floor, err := probe(ctx)
	if err != nil {
		return Round{}, fmt.Errorf("cannot measure floor: %w", err)
	}
	r := Round{Floor: floor}
	first, second, a, b := c.A, c.B, &r.A, &r.B
	if swapped {
		first, second, a, b = second, first, b, a
	}
	if *a, err = first.Measure(ctx); err != nil {
		r.Error = fmt.Sprintf("%s: %v", first.Name, err)
	} else if *b, err = second.Measure(ctx); err != nil {
		r.Error = fmt.Sprintf("%s: %v", second.Name, err)
	}
	return r, ctx.Err()
}

// probe is the floor of anything that starts a process: /bin/true, in milliseconds.
func probe(ctx context.Context) (float64, error) {
	begin := time.Now()
	err := exec.CommandContext(ctx, "/bin/true").Run()
	return millis(time.Since(begin)), err
}

func sumUp(c Case, rounds []Round) Result {
	res := Result{Name: c.Name, Unit: c.Unit, Goal: c.Goal, A: c.A.Name, B: c.B.Name, Ratio: ratioOf(rounds), Rounds: rounds}
	var as, bs []float64
	for _, r := range rounds {
		switch {
		case r.Error != "":
			res.Failed++
		case r.Discarded:
			res.Discarded++
		default:
			as, bs = append(as, r.A), append(bs, r.B)
		}
	}
	res.MedianA, res.MedianB = median(as), median(bs)
	return res
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
