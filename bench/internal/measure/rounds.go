package measure

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// again is the second measurement of the side that the noise is taken from.
const again = " (again)"

// Round is one sample of each side, and of the probes that tell whether the machine was quiet.
type Round struct {
	Samples   map[string]Sample  `json:"samples"`
	Probes    map[string]float64 `json:"probesMs,omitempty"`
	Discarded bool               `json:"discarded,omitempty"`
}

// Plan is how much is measured.
type Plan struct {
	Rounds int
	// Budget ends a group before its rounds are made, but not before one; zero is no limit.
	Budget time.Duration
	// Progress is told what is being measured; nil is no one.
	Progress func(group string, round, rounds int, side string)
}

// Run measures a group. Its own error is that the whole run is to end; a side that fails does so in its samples.
//
// A round that is discarded is made up for by another, until half as many again were made: which rounds are discarded
// depends on the probes alone, so this does not choose among the results.
func Run(ctx context.Context, g Group, p Plan) (Result, error) {
	g = g.withNoise()
	begin := time.Now()
	var rounds []Round
	for i := 0; counted(rounds) < p.Rounds && i < p.Rounds+p.Rounds/2; i++ {
		if p.Budget > 0 && i >= 1 && time.Since(begin) > p.Budget {
			break
		}
		r, err := g.round(ctx, i, p)
		if err != nil {
			return Result{}, err
		}
		rounds = append(rounds, r)
		discardNoisy(rounds)
	}
	r := sumUp(g, rounds)
	r.At = begin
	return r, nil
}

// withNoise adds the side that is measured against itself.
func (g Group) withNoise() Group {
	g.Sides = slices.Clone(g.Sides)
	for i := len(g.Sides) - 1; i >= 0 && g.Noise == ""; i-- {
		if g.Sides[i].NotRun == "" {
			g.Noise = g.Sides[i].Name
		}
	}
	i := slices.IndexFunc(g.Sides, func(s Side) bool { return s.Name == g.Noise })
	if i >= 0 {
		twin := g.Sides[i]
		twin.Name, twin.Series = g.Noise+again, ""
		g.Sides = append(g.Sides, twin)
	}
	return g
}

func counted(rounds []Round) (n int) {
	for _, r := range rounds {
		if !r.Discarded {
			n++
		}
	}
	return n
}

func (g Group) round(ctx context.Context, i int, p Plan) (Round, error) {
	r := Round{Samples: map[string]Sample{}, Probes: map[string]float64{}}
	for _, probe := range g.Probes {
		v, err := probe.Measure(ctx)
		if err != nil {
			return Round{}, fmt.Errorf("cannot measure the floor %s: %w", probe.Name, err)
		}
		r.Probes[probe.Name] = v
	}
	for _, s := range order(g.Sides, i) {
		if s.NotRun != "" {
			continue
		}
		if p.Progress != nil {
			p.Progress(g.Name, i+1, p.Rounds, s.Name)
		}
		sample, err := s.Measure(ctx)
		if ctx.Err() != nil {
			return Round{}, ctx.Err()
		}
		if err != nil {
			sample = Sample{Error: err.Error()}
		}
		r.Samples[s.Name] = sample
	}
	return r, nil
}

// order begins with another side every second round, and goes backwards in the round after: so a drift of the machine
// and what one side leaves behind for the next hit all of them.
func order(sides []Side, round int) []Side {
	n := len(sides)
	turned := make([]Side, 0, n)
	for i := range n {
		turned = append(turned, sides[(i+round/2)%n])
	}
	if round%2 == 1 {
		slices.Reverse(turned)
	}
	return turned
}

// discardNoisy marks the rounds in which a probe took over twice its median: something else used the machine.
func discardNoisy(rounds []Round) {
	values := map[string][]float64{}
	for _, r := range rounds {
		for name, v := range r.Probes {
			values[name] = append(values[name], v)
		}
	}
	limit := map[string]float64{}
	for name, v := range values {
		limit[name] = 2 * Median(v)
	}
	for i, r := range rounds {
		rounds[i].Discarded = false
		for name, v := range r.Probes {
			if v > limit[name] {
				rounds[i].Discarded = true
			}
		}
	}
}
