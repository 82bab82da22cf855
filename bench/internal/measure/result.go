package measure

import (
	"cmp"
	"encoding/json"
	"math"
	"slices"
	"time"
)

// Result is a group and what came of it.
type Result struct {
	Name string `json:"name"`
	// At is when the group was measured; zero in reports of before it was kept: with all the others.
	At          time.Time `json:"at,omitzero"`
	Title       string    `json:"title"`
	Unit        string    `json:"unit"`
	About       string    `json:"about,omitempty"`
	Ends        string    `json:"ends,omitempty"`
	Axis        string    `json:"axis,omitempty"`
	Sides       []Figure  `json:"sides"`
	Comparisons []Ratio   `json:"comparisons"`
	Noise       Ratio     `json:"noise"` // a side against itself
	Discarded   int       `json:"discarded"`
	Rounds      []Round   `json:"rounds"` // all raw samples
}

// LastMoment is the name of the moment that values are.
func (r Result) LastMoment() string { return firstOf(r.Ends, "first byte") }

// Figure sums up one side over the rounds that count.
type Figure struct {
	Name   string   `json:"name"`
	NotRun string   `json:"notRun,omitempty"`
	Series string   `json:"series,omitempty"`
	X      float64  `json:"x,omitempty"`
	Median Number   `json:"median"`
	P5     Number   `json:"p5"`
	P95    Number   `json:"p95"`
	CI     Interval `json:"ci95"` // of the median
	Marks  []Mark   `json:"marks,omitempty"`
	// EachMedian and EachP95 are of a burst's parts.
	EachMedian Number   `json:"eachMedian"`
	EachP95    Number   `json:"eachP95"`
	Memory     []Memory `json:"memory,omitempty"`
	OK         int      `json:"ok"`
	Failed     int      `json:"failed"`
	Error      string   `json:"error,omitempty"` // of the first that failed
}

// Ratio sums up a comparison.
type Ratio struct {
	Key    string   `json:"key,omitempty"`
	Name   string   `json:"name"`
	Over   string   `json:"over"`
	Under  string   `json:"under"`
	Goal   string   `json:"goal,omitempty"`
	NotRun string   `json:"notRun,omitempty"`
	Median Number   `json:"median"`
	CI     Interval `json:"ci95"`
	P95    Number   `json:"p95"`
	Pairs  int      `json:"pairs"`  // rounds that count
	Failed int      `json:"failed"` // rounds that do not, since a side failed
}

func sumUp(g Group, rounds []Round) Result {
	res := Result{Name: g.Name, Title: g.Title, Unit: g.Unit, About: g.About, Ends: g.Ends, Axis: g.Axis, Rounds: rounds, Discarded: len(rounds) - counted(rounds)}
	for _, s := range g.Sides {
		if s.Name != g.Noise+again {
			res.Sides = append(res.Sides, figureOf(s, rounds))
		}
	}
	for _, c := range g.Comparisons {
		res.Comparisons = append(res.Comparisons, ratioOf(g, c, rounds))
	}
	res.Noise = ratioOf(g, Comparison{Name: "noise", Over: g.Noise, Under: g.Noise + again}, rounds)
	return res
}

func figureOf(s Side, rounds []Round) Figure {
	f := Figure{Name: s.Name, NotRun: s.NotRun, Series: s.Series, X: s.X}
	var values, each []float64
	var good []Sample
	for _, r := range rounds {
		sample, ok := r.Samples[s.Name]
		switch {
		case !ok || r.Discarded:
		case sample.Error != "":
			f.Failed++
			f.Error = firstOf(f.Error, sample.Error)
		default:
			good, values, each = append(good, sample), append(values, sample.Value), append(each, sample.Each...)
		}
	}
	f.OK = len(good)
	f.Median, f.P5, f.P95, f.CI = Number(Median(values)), Number(Quantile(values, 0.05)), Number(Quantile(values, 0.95)), bootstrap(values)
	f.EachMedian, f.EachP95 = Number(Median(each)), Number(Quantile(each, 0.95))
	f.Marks, f.Memory = marksOf(good), memoryOf(good)
	return f
}

// marksOf has the median of each mark, moments in the order of time, others in the order in which they first came.
func marksOf(samples []Sample) (marks []Mark) {
	values := map[Mark][]float64{} // by marks without a value
	var keys []Mark
	for _, s := range samples {
		for _, m := range s.Marks {
			key := Mark{Name: m.Name, Of: m.Of}
			if values[key] == nil {
				keys = append(keys, key)
			}
			values[key] = append(values[key], m.Value)
		}
	}
	for _, k := range keys {
		k.Value = Median(values[k])
		marks = append(marks, k)
	}
	slices.SortStableFunc(marks, func(a, b Mark) int {
		if a.Of != "" || b.Of != "" {
			return cmp.Compare(a.Of, b.Of)
		}
		return cmp.Compare(a.Value, b.Value)
	})
	return marks
}

// Parts are the marks of a figure that are of this; "" is its moments.
func (f Figure) Parts(of string) (parts []Mark) {
	for _, m := range f.Marks {
		if m.Of == of {
			parts = append(parts, m)
		}
	}
	return parts
}

// memoryOf has the medians of the moments that all samples have; they were taken at the same times, but for a few milliseconds.
func memoryOf(samples []Sample) []Memory {
	var out []Memory
	for i := 0; len(samples) > 0; i++ {
		var at []Memory
		for _, s := range samples {
			if i < len(s.Memory) {
				at = append(at, s.Memory[i])
			}
		}
		if len(at) < len(samples) {
			break
		}
		of := func(f func(Memory) float64) float64 {
			var v []float64
			for _, m := range at {
				v = append(v, f(m))
			}
			return Median(v)
		}
		out = append(out, Memory{
			Seconds:     of(func(m Memory) float64 { return m.Seconds }),
			GuestMiB:    of(func(m Memory) float64 { return m.GuestMiB }),
			OverheadMiB: of(func(m Memory) float64 { return m.OverheadMiB }),
			MinorFaults: uint64(of(func(m Memory) float64 { return float64(m.MinorFaults) })),
			MajorFaults: uint64(of(func(m Memory) float64 { return float64(m.MajorFaults) })),
		})
	}
	return out
}

func ratioOf(g Group, c Comparison, rounds []Round) Ratio {
	r := Ratio{Key: c.Key, Name: c.Name, Over: c.Over, Under: c.Under, Goal: c.Goal, NotRun: firstOf(g.notRun(c.Over), g.notRun(c.Under))}
	underMark := firstOf(c.UnderMark, c.Mark)
	var ratios []float64
	for _, round := range rounds {
		if round.Discarded || r.NotRun != "" {
			continue
		}
		over, ok := round.Samples[c.Over].named(c.Mark)
		under, okUnder := round.Samples[c.Under].named(underMark)
		if !ok || !okUnder || under == 0 {
			r.Failed++
			continue
		}
		ratios = append(ratios, over/under)
	}
	r.Pairs = len(ratios)
	r.Median, r.CI, r.P95 = Number(Median(ratios)), bootstrap(ratios), Number(Quantile(ratios, 0.95))
	return r
}

// notRun says why a side of the group has no samples.
func (g Group) notRun(side string) string {
	i := slices.IndexFunc(g.Sides, func(s Side) bool { return s.Name == side })
	if i < 0 {
		return "no side " + side
	}
	return g.Sides[i].NotRun
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// Number is a float that may be missing: NaN is null in JSON, which has no word for it.
type Number float64

// MarshalJSON implements json.Marshaler.
func (n Number) MarshalJSON() ([]byte, error) {
	if n.Missing() {
		return []byte("null"), nil
	}
	return appendFloat(float64(n)), nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (n *Number) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*n = Number(math.NaN())
		return nil
	}
	return json.Unmarshal(b, (*float64)(n))
}

// Missing says that there was nothing to take the number from.
func (n Number) Missing() bool { return math.IsNaN(float64(n)) || math.IsInf(float64(n), 0) }
