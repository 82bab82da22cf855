package main

import (
	"math"
	"math/rand/v2"
	"slices"
)

// Interval is a 95 % confidence interval.
type Interval struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// Ratio sums up paired measurements: how many times B each A took.
type Ratio struct {
	Median float64  `json:"median"`
	CI     Interval `json:"ci95"`
	P95    float64  `json:"p95"`
}

// resamples is how often the bootstrap draws; more changes the third digit of the interval at most.
const resamples = 2000

// quantile returns the q-quantile (0 to 1) of values, linear between its neighbours; NaN when there are none.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low := int(at)
	if low == len(sorted)-1 {
		return sorted[low]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}

func median(values []float64) float64 { return quantile(values, 0.5) }

// bootstrap returns the percentile bootstrap interval of the median (Efron 1979). The same values give the same interval.
func bootstrap(values []float64) Interval {
	if len(values) == 0 {
		return Interval{math.NaN(), math.NaN()}
	}
	random := rand.New(rand.NewPCG(1, uint64(len(values))))
	medians := make([]float64, resamples)
	draw := make([]float64, len(values))
	for i := range medians {
		for j := range draw {
			draw[j] = values[random.IntN(len(values))]
		}
		medians[i] = median(draw)
	}
	return Interval{quantile(medians, 0.025), quantile(medians, 0.975)}
}

// ratioOf is about the rounds that count: those where both sides were measured and the machine was quiet.
func ratioOf(rounds []Round) Ratio {
	var ratios []float64
	for _, r := range rounds {
		if r.counts() {
			ratios = append(ratios, r.A/r.B)
		}
	}
	return Ratio{Median: median(ratios), CI: bootstrap(ratios), P95: quantile(ratios, 0.95)}
}

// discardNoisy marks the rounds whose floor probe took over twice the median of all: something else used the machine.
func discardNoisy(rounds []Round) {
	var floors []float64
	for _, r := range rounds {
		floors = append(floors, r.Floor)
	}
	limit := 2 * median(floors)
	for i := range rounds {
		rounds[i].Discarded = rounds[i].Floor > limit
	}
}
