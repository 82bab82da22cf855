package plots

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"gonum.org/v1/plot"

	"github.com/containervm/containervm/bench/internal/measure"
)

func side(name string, median measure.Number, marks ...measure.Mark) measure.Figure {
	return measure.Figure{Name: name, Median: median, P5: median * 0.9, P95: median * 1.2, OK: 3, Marks: marks}
}

func onCurve(series string, x float64, median measure.Number) measure.Figure {
	f := side(series+" at x", median)
	f.Series, f.X, f.EachMedian, f.EachP95 = series, x, median/2, median
	return f
}

func examples() []measure.Result {
	reply := func(v float64) measure.Mark { return measure.Mark{Name: "first reply", Value: v} }
	return []measure.Result{
		{Name: "fork", Title: "Fork & peers", Unit: "ms", Sides: []measure.Figure{
			side("boot", 1200, reply(1100)), side("fork", 40, measure.Mark{Name: "loaded", Value: 9}, reply(20)), side("runc", 90),
			side("claim", 5.5, reply(2)), {Name: "other", NotRun: "not here"},
		}},
		{Name: "burst", Title: "Many", Unit: "ms", Axis: "at once", Sides: []measure.Figure{
			onCurve("fork", 1, 40), onCurve("fork", 4, 100), onCurve("boot", 1, 1000), onCurve("boot", 4, 3900),
		}},
		{Name: "memory", Title: "Memory", Unit: "MiB", Sides: []measure.Figure{
			{Name: "fork", OK: 1, Memory: []measure.Memory{{Seconds: 0, GuestMiB: 0.7, OverheadMiB: 20}, {Seconds: 1, GuestMiB: 0, OverheadMiB: 21}}},
		}},
		{Name: "pair", Sides: []measure.Figure{side("a", 1), side("b", 2)}},
	}
}

// Golden drawings; `go test ./bench/internal/plots -update` writes them anew. A change is to be looked at.
func TestGolden(t *testing.T) {
	var names []string
	for _, p := range All(examples()) {
		names = append(names, p.Name)
		got, err := p.SVG()
		if err != nil {
			t.Fatalf("%s: %v", p.Name, err)
		}
		if err := wellFormed(got); err != nil {
			t.Errorf("%s is no XML: %v", p.Name, err)
		}
		path := filepath.Join("testdata", p.Name+".svg")
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s differs from %s: %v; look at it and write it with -update", p.Name, path, err)
		}
	}
	if want := []string{"fork", "fork-phases", "burst", "burst-each", "memory"}; !slices.Equal(names, want) {
		t.Errorf("plots %q, want %q", names, want)
	}
}

var update = flag.Bool("update", false, "write the golden files")

func wellFormed(svg []byte) error {
	for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// Results in which everything failed must not break the report.
func TestNothingToDraw(t *testing.T) {
	empty := measure.Result{Name: "x", Axis: "at once", Sides: []measure.Figure{{Name: "a", Series: "a", Failed: 3}}}
	if got := Of(empty); len(got) != 0 {
		t.Errorf("%d plots of nothing", len(got))
	}
}

func TestTicks(t *testing.T) {
	for _, c := range []struct {
		ticker plot.Ticker
		low    float64
		high   float64
		want   []string
	}{
		{decades{}, 9, 60, []string{"10", "20", "50"}},
		{steps{}, 0, 2500, []string{"0", "500", "1000", "1500", "2000", "2500"}},
		{steps{}, 0, 10, []string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"}},
		{steps{}, 1, 1, nil},
	} {
		var got []string
		for _, tick := range c.ticker.Ticks(c.low, c.high) {
			got = append(got, tick.Label)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%T from %v to %v: %q, want %q", c.ticker, c.low, c.high, got, c.want)
		}
	}
}
