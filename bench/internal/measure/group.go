// Package measure makes comparisons that can be believed: all sides of a group are measured by turns in one run, their
// paired ratios give a median and its interval, rounds in which the machine was busy with something else are discarded
// and counted, failures stay in the samples, and one side is measured against itself.
package measure

import (
	"context"
	"time"
)

// Side is one of the things that a group compares.
type Side struct {
	Name string
	// Measure does it once. What it prepares before its clock starts, and what it clears away, is not in the sample.
	Measure func(context.Context) (Sample, error)
	// NotRun says why the side cannot be measured on this machine; then Measure is not called and the report says so.
	NotRun string

	// Series and X place the side on a curve: its name and the value on the horizontal axis.
	Series string
	X      float64
}

// Sample is one measurement.
type Sample struct {
	Value  float64   `json:"value"`            // in the unit of the group
	Marks  []Mark    `json:"marks,omitempty"`  // what else it showed, in the order of its happening
	Each   []float64 `json:"each,omitempty"`   // of a burst: what each of its parts took, in the unit of the group
	Memory []Memory  `json:"memory,omitempty"` // what a machine took, over time
	Error  string    `json:"error,omitempty"`  // why there is no value
}

// Mark is a named moment within a sample, in the unit of the group since its beginning; or with Of, which says what it is
// a part of, how long that part took; or another Figure.
type Mark struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Of    string  `json:"of,omitempty"`
}

// OfFigures is for marks that are neither moments nor times.
const OfFigures = "figures"

// Memory is what a machine took of its host at a moment.
type Memory struct {
	Seconds     float64 `json:"seconds"`     // since the first byte of its process
	GuestMiB    float64 `json:"guestMiB"`    // pages of the guest's RAM that are this machine's alone
	OverheadMiB float64 `json:"overheadMiB"` // private memory of QEMU itself
	MinorFaults uint64  `json:"minorFaults"`
	MajorFaults uint64  `json:"majorFaults"`
}

// named is the value, or that of a mark.
func (s Sample) named(mark string) (float64, bool) {
	if s.Error != "" {
		return 0, false
	}
	if mark == "" {
		return s.Value, true
	}
	for _, m := range s.Marks {
		if m.Name == mark {
			return m.Value, true
		}
	}
	return 0, false
}

// Comparison divides what two sides of a group took in the same round.
type Comparison struct {
	Key         string // row of the table of goals, if it is in there
	Name        string
	Over, Under string // names of sides
	Mark        string // the mark that is compared; empty: the value
	UnderMark   string // the same of Under; empty: Mark
	Goal        string // for people, as an issue or the design states it
}

// Probe tells whether the machine was quiet: something that takes the same time in each round.
type Probe struct {
	Name    string
	Measure func(context.Context) (float64, error)
}

// Group is a set of sides that are measured by turns.
type Group struct {
	Name        string // short, for choosing and for the names of files
	Title       string
	Unit        string // of the sides: "ms", "MB/s", "MiB"
	About       string // what the clock spans, for the report
	Ends        string // the moment that a value of the sides is, if it is one; empty: the first byte of a process
	Sides       []Side
	Comparisons []Comparison
	Probes      []Probe
	// Noise is the side that is measured twice in each round; the ratio of the two is what the machine does to any
	// figure. Empty: the last of the sides that can run.
	Noise string
	// Axis is the name of X when the sides are on curves.
	Axis string
}

// Value makes a Measure of a function that returns one number.
func Value(f func(context.Context) (float64, error)) func(context.Context) (Sample, error) {
	return func(ctx context.Context) (Sample, error) {
		v, err := f(ctx)
		return Sample{Value: v}, err
	}
}

// Millis is the unit of most groups.
func Millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
