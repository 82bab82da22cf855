package plots

import (
	"cmp"
	"fmt"
	"image/color"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg/draw"

	"github.com/containervm/containervm/bench/internal/measure"
)

func pale() color.Color { return color.Gray{0xdd} }

// drawSides has a row for each side, the fastest at the top, by logarithm: a distance is a ratio.
func drawSides(r measure.Result) (*plot.Plot, error) {
	sides := measured(r)
	slices.SortStableFunc(sides, func(a, b measure.Figure) int { return cmp.Compare(b.Median, a.Median) })
	p := newPlot(r.Title, r.Unit+" (median, whiskers from p5 to p95)", "")
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, decades{}
	p.Add(grid())
	var points plotter.XYs
	var errors plotter.XErrors
	var names plot.ConstantTicks
	var labels []string
	for i, s := range sides {
		points = append(points, plotter.XY{X: float64(s.Median), Y: float64(i)})
		errors = append(errors, struct{ Low, High float64 }{float64(s.P5 - s.Median), float64(s.P95 - s.Median)})
		names = append(names, plot.Tick{Value: float64(i), Label: s.Name})
		labels = append(labels, threeDigits(float64(s.Median)))
	}
	p.Y.Tick.Marker, p.Y.Min, p.Y.Max = names, -0.6, float64(len(sides))-0.4
	return p, addRows(p, points, errors, labels)
}

func addRows(p *plot.Plot, points plotter.XYs, errors plotter.XErrors, labels []string) error {
	bars, err := plotter.NewXErrorBars(struct {
		plotter.XYer
		plotter.XErrorer
	}{points, xErrors(errors)})
	if err != nil {
		return fmt.Errorf("cannot draw whiskers: %w", err)
	}
	dots, err := plotter.NewScatter(points)
	if err != nil {
		return fmt.Errorf("cannot draw medians: %w", err)
	}
	figures, err := plotter.NewLabels(plotter.XYLabels{XYs: points, Labels: labels})
	if err != nil {
		return fmt.Errorf("cannot draw figures: %w", err)
	}
	bars.Color, bars.Width, dots.Color, dots.Shape, dots.Radius = hue(0), 1, hue(0), draw.CircleGlyph{}, 4
	for i := range figures.TextStyle {
		figures.TextStyle[i].Font = sans(9)
	}
	figures.Offset.X, figures.Offset.Y = 5, 4
	p.Add(bars, dots, figures)
	p.X.Min, p.X.Max = p.X.Min/1.2, p.X.Max*1.6
	return nil
}

// threeDigits is a figure without an exponent.
func threeDigits(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// xErrors are whiskers to the left and the right of a point.
type xErrors plotter.XErrors

func (e xErrors) XError(i int) (low, high float64) { return e[i].Low, e[i].High }
