package measure

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// recorded is a side that writes its letter to order.
func recorded(order *strings.Builder, name string, value float64) Side {
	return Side{Name: name, Measure: Value(func(context.Context) (float64, error) { order.WriteString(name[:1]); return value, nil })}
}

// Each side is measured equally often and goes first equally often.
func TestRunInterleaves(t *testing.T) {
	var order strings.Builder
	g := Group{Sides: []Side{recorded(&order, "a", 6), recorded(&order, "b", 2)}, Noise: "none",
		Comparisons: []Comparison{{Over: "a", Under: "b"}}}
	got, err := Run(t.Context(), g, Plan{Rounds: 4})
	if err != nil || order.String() != "abbabaab" {
		t.Fatalf("order %q, %v; want abbabaab", order.String(), err)
	}
	if r := got.Comparisons[0]; r.Median != 3 || r.Pairs != 4 {
		t.Errorf("ratio %+v, want 3 of 4 pairs", r)
	}
}

func TestASideIsMeasuredAgainstItself(t *testing.T) {
	var order strings.Builder
	n := 0.0
	last := Side{Name: "last", Measure: Value(func(context.Context) (float64, error) { n++; return n, nil })}
	got, err := Run(t.Context(), Group{Sides: []Side{recorded(&order, "a", 1), last}}, Plan{Rounds: 2})
	if err != nil || n != 4 {
		t.Fatalf("the last side was measured %v times, %v; want 4", n, err)
	}
	if got.Noise.Over != "last" || got.Noise.Pairs != 2 || len(got.Sides) != 2 {
		t.Errorf("result %+v", got)
	}
}

func TestNoisyRoundsAreDiscardedAndMadeUpFor(t *testing.T) {
	floors := []float64{1, 1.1, 2.5, 1, 1, 1}
	values := []float64{2, 2, 900, 2, 2, 2}
	i := -1
	g := Group{
		Probes:      []Probe{{"floor", func(context.Context) (float64, error) { i++; return floors[i], nil }}},
		Sides:       []Side{{Name: "a", Measure: Value(func(context.Context) (float64, error) { return values[i], nil })}},
		Comparisons: []Comparison{{Over: "a", Under: "a"}}, Noise: "none",
	}
	got, err := Run(t.Context(), g, Plan{Rounds: 4})
	if err != nil {
		t.Fatal(err)
	}
	if got.Discarded != 1 || len(got.Rounds) != 5 || got.Sides[0].OK != 4 || got.Sides[0].Median != 2 {
		t.Errorf("result %+v, want 5 raw rounds, one of them discarded", got)
	}
}

func TestFailureOfASideStaysInTheRound(t *testing.T) {
	var order strings.Builder
	broken := Side{Name: "b", Measure: Value(func(context.Context) (float64, error) { return 0, errors.New("no machine") })}
	g := Group{Sides: []Side{recorded(&order, "a", 1), broken}, Comparisons: []Comparison{{Over: "a", Under: "b"}}, Noise: "none"}
	got, err := Run(t.Context(), g, Plan{Rounds: 2})
	if err != nil {
		t.Fatal(err)
	}
	if b := got.Sides[1]; b.Failed != 2 || b.OK != 0 || b.Error != "no machine" {
		t.Errorf("side %+v", b)
	}
	if a := got.Sides[0]; a.OK != 2 {
		t.Errorf("the other side: %+v", a)
	}
	if r := got.Comparisons[0]; r.Failed != 2 || r.Pairs != 0 {
		t.Errorf("ratio %+v, want two failures in it", r)
	}
}

func TestASideThatCannotRunSaysWhy(t *testing.T) {
	var order strings.Builder
	g := Group{
		Sides:       []Side{recorded(&order, "a", 1), {Name: "b", NotRun: "no cgroups"}},
		Comparisons: []Comparison{{Over: "b", Under: "a"}},
	}
	got, err := Run(t.Context(), g, Plan{Rounds: 1})
	if err != nil || got.Sides[1].NotRun != "no cgroups" || got.Comparisons[0].NotRun != "no cgroups" {
		t.Errorf("result %+v, %v", got, err)
	}
	if got.Noise.Over != "a" {
		t.Errorf("noise of %q, want of the side that runs", got.Noise.Over)
	}
}

func TestMarksAreComparedToo(t *testing.T) {
	side := func(name string, reply float64) Side {
		return Side{Name: name, Measure: func(context.Context) (Sample, error) {
			return Sample{Value: 1, Marks: []Mark{{Name: "reply", Value: reply}}}, nil
		}}
	}
	g := Group{Sides: []Side{side("a", 10), side("b", 2)}, Comparisons: []Comparison{{Over: "a", Under: "b", Mark: "reply"}}}
	got, err := Run(t.Context(), g, Plan{Rounds: 3})
	if err != nil || got.Comparisons[0].Median != 5 || got.Sides[0].Marks[0].Value != 10 {
		t.Errorf("result %+v, %v", got, err)
	}
}

func TestMemoryHasTheMedianOfEachMoment(t *testing.T) {
	got := memoryOf([]Sample{
		{Memory: []Memory{{Seconds: 0, GuestMiB: 1}, {Seconds: 1, GuestMiB: 5}}},
		{Memory: []Memory{{Seconds: 0, GuestMiB: 3}}},
	})
	if len(got) != 1 || got[0].GuestMiB != 2 {
		t.Errorf("memoryOf = %+v, want the moment that both have", got)
	}
}
