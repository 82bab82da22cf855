package measure

import (
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
)

// Interval is a 95 % confidence interval.
type Interval struct {
	Low  Number `json:"low"`
	High Number `json:"high"`
}

// resamples is how often the bootstrap draws; more changes the third digit of the interval at most.
const resamples = 2000

// Quantile returns the q-quantile (0 to 1) of values, linear between its neighbours; NaN when there are none.
func Quantile(values []float64, q float64) float64 {
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

// Median is the 0.5-quantile.
func Median(values []float64) float64 { return Quantile(values, 0.5) }

// bootstrap returns the percentile bootstrap interval of the median (Efron 1979). The same values give the same interval.
func bootstrap(values []float64) Interval {
	if len(values) == 0 {
		return Interval{Number(math.NaN()), Number(math.NaN())}
	}
	random := rand.New(rand.NewPCG(1, uint64(len(values))))
	medians := make([]float64, resamples)
	draw := make([]float64, len(values))
	for i := range medians {
		for j := range draw {
			draw[j] = values[random.IntN(len(values))]
		}
		medians[i] = Median(draw)
	}
	return Interval{Number(Quantile(medians, 0.025)), Number(Quantile(medians, 0.975))}
}

func appendFloat(f float64) []byte { return strconv.AppendFloat(nil, f, 'g', 6, 64) }
