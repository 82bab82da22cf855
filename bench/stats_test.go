package main

import (
	"context"
	"errors"
	"io"
	"math"
	"testing"
)

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		values []float64
		q      float64
		want   float64
	}{
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{1, 2, 3, 4}, 0.5, 2.5},
		{[]float64{5}, 0.95, 5},
		{[]float64{0, 10}, 0.95, 9.5},
		{[]float64{0, 10}, 1, 10},
	} {
		if got := quantile(c.values, c.q); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("quantile(%v, %v) = %v, want %v", c.values, c.q, got, c.want)
		}
	}
	if !math.IsNaN(median(nil)) {
		t.Error("the median of nothing is a number")
	}
}

// The interval must hold the median, shrink with the spread and not change from run to run.
func TestBootstrap(t *testing.T) {
	wide, narrow := []float64{}, []float64{}
	for i := range 40 {
		wide = append(wide, float64(i))
		narrow = append(narrow, 19.5+float64(i%2)/100)
	}
	w, n := bootstrap(wide), bootstrap(narrow)
	if m := median(wide); w.Low > m || w.High < m {
		t.Errorf("%v does not hold the median %v", w, m)
	}
	if w.High-w.Low <= n.High-n.Low {
		t.Errorf("%v of spread values is not wider than %v", w, n)
	}
	if again := bootstrap(wide); again != w {
		t.Errorf("bootstrap = %v, then %v", w, again)
	}
}

func TestNoisyAndFailedRoundsDoNotCount(t *testing.T) {
	rounds := []Round{
		{A: 2, B: 1, Floor: 1}, {A: 2, B: 1, Floor: 1.1}, {A: 900, B: 1, Floor: 2.5}, {A: 0, B: 0, Floor: 1, Error: "broken"},
	}
	discardNoisy(rounds)
	got := sumUp(Case{}, rounds)
	if got.Discarded != 1 || got.Failed != 1 || got.Ratio.Median != 2 || got.MedianA != 2 {
		t.Errorf("sumUp = %+v", got)
	}
	if len(got.Rounds) != 4 {
		t.Errorf("%d raw rounds kept, want all 4", len(got.Rounds))
	}
}

// Both sides are measured equally often and each goes first in half of the rounds.
func TestRunInterleaves(t *testing.T) {
	var order string
	side := func(name string, value float64) Side {
		return Side{name, func(context.Context) (float64, error) { order += name; return value, nil }}
	}
	got, err := run(t.Context(), Case{A: side("a", 6), B: side("b", 2)}, 4, io.Discard)
	if err != nil || order != "abbaabba" {
		t.Fatalf("order %q, %v; want abbaabba", order, err)
	}
	for _, r := range got.Rounds {
		if r.A != 6 || r.B != 2 {
			t.Errorf("round %+v, want 6 and 2", r)
		}
	}
}

func TestFailureOfASideStaysInItsRound(t *testing.T) {
	broken := Side{"b", func(context.Context) (float64, error) { return 0, errors.New("no machine") }}
	fine := Side{"a", func(context.Context) (float64, error) { return 1, nil }}
	got, err := run(t.Context(), Case{A: fine, B: broken}, 2, io.Discard)
	if err != nil || got.Failed != 2 || got.Rounds[0].Error != "b: no machine" {
		t.Errorf("run = %+v, %v", got, err)
	}
}
