package main

import (
	"slices"
	"testing"

	"github.com/containervm/containervm/bench/internal/measure"
)

func TestColumnsKeepTheOrderOfEachSide(t *testing.T) {
	side := func(names ...string) (f measure.Figure) {
		for i, n := range names {
			f.Marks = append(f.Marks, measure.Mark{Name: n, Value: float64(i)})
		}
		return f
	}
	got := columns([]measure.Figure{side("reply"), side("greets", "loaded", "reply"), side("api", "greets", "hello"), side()})
	if want := []string{"api", "greets", "loaded", "reply", "hello"}; !slices.Equal(got, want) {
		t.Errorf("columns = %q, want %q", got, want)
	}
}
