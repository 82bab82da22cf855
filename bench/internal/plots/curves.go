package plots

import (
	"fmt"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg/draw"

	"github.com/containervm/containervm/bench/internal/measure"
)

// curve is a series: its points with the errors of each.
type curve struct {
	name   string
	points plotter.XYs
	errors plotter.YErrors
}

func (c curve) YError(i int) (low, high float64) { return c.errors[i].Low, c.errors[i].High }

// value picks what is drawn of a side: its median, and up to where most samples are.
type value func(measure.Figure) (median, low, high measure.Number)

func whole(f measure.Figure) (median, low, high measure.Number) { return f.Median, f.P5, f.P95 }

// one is of the parts of a burst.
func one(f measure.Figure) (median, low, high measure.Number) {
	return f.EachMedian, f.EachMedian, f.EachP95
}

// curves collects the sides that are on curves, in their order.
func curves(r measure.Result, of value) (all []curve) {
	at := map[string]int{}
	for _, s := range r.Sides {
		median, low, high := of(s)
		if s.Series == "" || median.Missing() || median <= 0 || low <= 0 {
			continue
		}
		i, ok := at[s.Series]
		if !ok {
			i = len(all)
			at[s.Series] = i
			all = append(all, curve{name: s.Series})
		}
		all[i].points = append(all[i].points, plotter.XY{X: s.X, Y: float64(median)})
		all[i].errors = append(all[i].errors, struct{ Low, High float64 }{float64(low - median), float64(high - median)})
	}
	return all
}

// drawCurves draws both axes by logarithm: what is flat is flat, and what grows in proportion is a slope of one.
func drawCurves(r measure.Result, title string, of value) (*plot.Plot, error) {
	p := newPlot(title, r.Axis, r.Unit+" (median, whiskers to p95)")
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.Y.Tick.Marker = decades{}
	p.Add(grid())
	var xs []float64
	for i, c := range curves(r, of) {
		if err := addCurve(p, c, i); err != nil {
			return nil, err
		}
		for _, point := range c.points {
			xs = append(xs, point.X)
		}
	}
	p.X.Tick.Marker = ticksAt(xs)
	widen(p)
	return p, nil
}

func addCurve(p *plot.Plot, c curve, i int) error {
	line, points, err := plotter.NewLinePoints(c.points)
	if err != nil {
		return fmt.Errorf("cannot draw %s: %w", c.name, err)
	}
	bars, err := plotter.NewYErrorBars(struct {
		plotter.XYer
		plotter.YErrorer
	}{c.points, c})
	if err != nil {
		return fmt.Errorf("cannot draw %s: %w", c.name, err)
	}
	line.Color, line.Width, points.Color, points.Shape, points.Radius = hue(i), 2, hue(i), draw.CircleGlyph{}, 3.5
	bars.Color, bars.Width = hue(i), 0.8
	p.Add(line, points, bars)
	p.Legend.Add(c.name, line, points)
	return nil
}

func grid() *plotter.Grid {
	g := plotter.NewGrid()
	g.Horizontal.Color, g.Vertical.Color = pale(), pale()
	g.Horizontal.Width, g.Vertical.Width = 0.5, 0.5
	return g
}

// widen leaves room for the legend at the top, and around the outermost points, of logarithmic axes.
func widen(p *plot.Plot) {
	p.X.Min, p.X.Max = p.X.Min/1.15, p.X.Max*1.15
	p.Y.Min, p.Y.Max = p.Y.Min/1.3, p.Y.Max*6
}

// ticksAt are at the values that were measured.
func ticksAt(xs []float64) plot.ConstantTicks {
	var ticks plot.ConstantTicks
	seen := map[float64]bool{}
	for _, x := range xs {
		if !seen[x] {
			seen[x] = true
			ticks = append(ticks, plot.Tick{Value: x, Label: fmt.Sprintf("%g", x)})
		}
	}
	return ticks
}
