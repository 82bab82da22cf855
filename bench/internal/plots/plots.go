// Package plots draws results as SVG files.
package plots

import (
	"bytes"
	"fmt"
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/containervm/containervm/bench/internal/measure"
)

// Plot is a drawing, made when SVG is called.
type Plot struct {
	Name   string // of its file, without the suffix
	height vg.Length
	draw   func() (*plot.Plot, error)
}

// width of all drawings; their heights differ.
const (
	width  = 9 * vg.Inch
	margin = 10
)

// SVG draws the plot.
func (p Plot) SVG() ([]byte, error) {
	drawn, err := p.draw()
	if err != nil {
		return nil, err
	}
	c := vgsvg.New(width, p.height)
	c.SetColor(color.White)
	drawn.Draw(draw.Crop(draw.New(c), margin, -margin, margin, -margin))
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return nil, fmt.Errorf("cannot write SVG: %w", err)
	}
	return anyFont(b.Bytes()), nil
}

// All are the plots of all results.
func All(results []measure.Result) (all []Plot) {
	for _, r := range results {
		all = append(all, Of(r)...)
	}
	return all
}

// fewest is how many sides make a picture; less is a number.
const fewest = 4

// Of are the plots of one result: those that there is something to show in.
func Of(r measure.Result) (all []Plot) {
	switch {
	case r.Axis != "" && len(curves(r, whole)) > 0:
		all = append(all, Plot{r.Name, 5 * vg.Inch, func() (*plot.Plot, error) { return drawCurves(r, r.Title, whole) }})
		if len(curves(r, one)) > 0 {
			all = append(all, Plot{r.Name + "-each", 5 * vg.Inch, func() (*plot.Plot, error) { return drawCurves(r, r.Title+": one of them", one) }})
		}
	case hasMemory(r):
		all = append(all, Plot{r.Name, 5 * vg.Inch, func() (*plot.Plot, error) { return drawMemory(r) }})
	case len(measured(r)) >= fewest:
		all = append(all, Plot{r.Name, rows(len(measured(r))), func() (*plot.Plot, error) { return drawSides(r) }})
		if n := len(withPhases(r)); n > 0 {
			all = append(all, Plot{r.Name + "-phases", rows(n), func() (*plot.Plot, error) { return drawPhases(r) }})
		}
	}
	return all
}

// measured are the sides that have a figure.
func measured(r measure.Result) (sides []measure.Figure) {
	for _, s := range r.Sides {
		if s.OK > 0 {
			sides = append(sides, s)
		}
	}
	return sides
}

// rows is the height of a plot with so many rows.
func rows(n int) vg.Length { return 1.5*vg.Inch + vg.Length(n)*0.32*vg.Inch }

// newPlot is an empty plot in our style.
func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	for f, size := range map[*font.Font]vg.Length{
		&p.Title.TextStyle.Font: 15, &p.X.Label.TextStyle.Font: 11, &p.Y.Label.TextStyle.Font: 11,
		&p.X.Tick.Label.Font: 10, &p.Y.Tick.Label.Font: 10, &p.Legend.TextStyle.Font: 10,
	} {
		*f = sans(size)
	}
	p.Title.Padding, p.BackgroundColor = 8, color.White
	p.X.Padding, p.Y.Padding = 6, 6
	p.Legend.Top, p.Legend.Left, p.Legend.Padding = true, true, 2
	return p
}

// hue is a colour that is told from its neighbours, also by those who see fewer colours (Okabe and Ito 2008).
func hue(i int) color.Color {
	colours := []color.RGBA{
		{0x00, 0x72, 0xb2, 0xff}, {0xd5, 0x5e, 0x00, 0xff}, {0x00, 0x9e, 0x73, 0xff}, {0xcc, 0x79, 0xa7, 0xff},
		{0xe6, 0x9f, 0x00, 0xff}, {0x56, 0xb4, 0xe9, 0xff}, {0x80, 0x80, 0x80, 0xff}, {0xc8, 0xb9, 0x00, 0xff},
		{0x5a, 0x3d, 0x8a, 0xff}, {0x33, 0x33, 0x33, 0xff},
	}
	return colours[i%len(colours)]
}
