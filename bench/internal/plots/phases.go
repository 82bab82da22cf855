package plots

import (
	"fmt"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"

	"github.com/containervm/containervm/bench/internal/measure"
)

// withPhases are the sides that have moments.
func withPhases(r measure.Result) (sides []measure.Figure) {
	for _, s := range measured(r) {
		if len(s.Parts("")) > 0 {
			sides = append(sides, s)
		}
	}
	return sides
}

// drawPhases has a row for each side, cut at its moments: each piece is the time that led to the moment it is named by.
func drawPhases(r measure.Result) (*plot.Plot, error) {
	p := newPlot(r.Title+": where the time goes", r.Unit+" after the request (medians)", "")
	p.Legend.Left = false
	sides := withPhases(r)
	var names plot.ConstantTicks
	colours := map[string]int{}
	for i, s := range sides {
		row := float64(len(sides) - 1 - i)
		names = append(names, plot.Tick{Value: row, Label: s.Name})
		from := 0.0
		for _, m := range append(s.Parts(""), measure.Mark{Name: r.LastMoment(), Value: float64(s.Median)}) {
			if m.Value <= from {
				continue // a moment that is not on the way to the first byte, such as an answer that came after it
			}
			if err := addPiece(p, colours, m.Name, from, m.Value, row); err != nil {
				return nil, err
			}
			from = m.Value
		}
	}
	p.Y.Tick.Marker, p.Y.Min, p.Y.Max = names, -0.6, float64(len(sides))-0.4
	p.X.Min, p.X.Max, p.X.Tick.Marker = 0, p.X.Max*1.45, steps{} // room for the legend
	return p, nil
}

func addPiece(p *plot.Plot, colours map[string]int, name string, from, to, row float64) error {
	const half = 0.36
	piece, err := plotter.NewPolygon(plotter.XYs{{X: from, Y: row - half}, {X: to, Y: row - half}, {X: to, Y: row + half}, {X: from, Y: row + half}})
	if err != nil {
		return fmt.Errorf("cannot draw %s: %w", name, err)
	}
	i, known := colours[name]
	if !known {
		i = len(colours)
		colours[name] = i
		p.Legend.Add(name, piece)
	}
	piece.Color, piece.LineStyle.Width = hue(i), 0
	p.Add(piece)
	return nil
}
