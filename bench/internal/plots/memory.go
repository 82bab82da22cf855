package plots

import (
	"fmt"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/containervm/containervm/bench/internal/measure"
)

func hasMemory(r measure.Result) bool {
	for _, s := range r.Sides {
		if len(s.Memory) > 0 {
			return true
		}
	}
	return false
}

// drawMemory has two lines for each side: the guest's own pages, and dashed what QEMU itself takes.
func drawMemory(r measure.Result) (*plot.Plot, error) {
	p := newPlot(r.Title, "seconds after the first byte", "private MiB (median)")
	p.Y.Scale, p.Y.Tick.Marker, p.X.Tick.Marker = plot.LogScale{}, decades{}, steps{}
	p.Add(grid())
	for i, s := range r.Sides {
		var guest, overhead plotter.XYs
		for _, m := range s.Memory {
			// A logarithm of nothing there is not; less than a hundredth of a MiB, two pages, is nothing.
			guest = append(guest, plotter.XY{X: m.Seconds, Y: max(m.GuestMiB, 0.01)})
			overhead = append(overhead, plotter.XY{X: m.Seconds, Y: max(m.OverheadMiB, 0.01)})
		}
		if len(guest) == 0 {
			continue
		}
		if err := addLine(p, s.Name+": guest's pages", guest, i, nil); err != nil {
			return nil, err
		}
		if err := addLine(p, s.Name+": QEMU itself", overhead, i, []vg.Length{4, 3}); err != nil {
			return nil, err
		}
	}
	p.X.Min = 0
	p.Y.Min, p.Y.Max = p.Y.Min/1.3, p.Y.Max*12
	return p, nil
}

func addLine(p *plot.Plot, name string, points plotter.XYs, i int, dashes []vg.Length) error {
	line, dots, err := plotter.NewLinePoints(points)
	if err != nil {
		return fmt.Errorf("cannot draw %s: %w", name, err)
	}
	line.Color, line.Width, line.Dashes = hue(i), 2, dashes
	dots.Color, dots.Shape, dots.Radius = hue(i), draw.CircleGlyph{}, 3
	p.Add(line, dots)
	p.Legend.Add(name, line)
	return nil
}
