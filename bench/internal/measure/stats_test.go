package measure

import (
	"encoding/json"
	"math"
	"testing"
)

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		values []float64
		q      float64
		want   float64
	}{
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{1, 2, 3, 4}, 0.5, 2.5},
		{[]float64{5}, 0.95, 5},
		{[]float64{0, 10}, 0.95, 9.5},
		{[]float64{0, 10}, 1, 10},
	} {
		if got := Quantile(c.values, c.q); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("Quantile(%v, %v) = %v, want %v", c.values, c.q, got, c.want)
		}
	}
	if !math.IsNaN(Median(nil)) {
		t.Error("the median of nothing is a number")
	}
}

// The interval must hold the median, shrink with the spread and not change from run to run.
func TestBootstrap(t *testing.T) {
	wide, narrow := []float64{}, []float64{}
	for i := range 40 {
		wide = append(wide, float64(i))
		narrow = append(narrow, 19.5+float64(i%2)/100)
	}
	w, n := bootstrap(wide), bootstrap(narrow)
	if m := Number(Median(wide)); w.Low > m || w.High < m {
		t.Errorf("%v does not hold the median %v", w, m)
	}
	if w.High-w.Low <= n.High-n.Low {
		t.Errorf("%v of spread values is not wider than %v", w, n)
	}
	if again := bootstrap(wide); again != w {
		t.Errorf("bootstrap = %v, then %v", w, again)
	}
}

func TestMissingNumbersAreNull(t *testing.T) {
	got, err := json.Marshal([]Number{1.5, Number(math.NaN()), Number(math.Inf(1))})
	if err != nil || string(got) != "[1.5,null,null]" {
		t.Errorf("Marshal = %s, %v", got, err)
	}
	var back []Number
	if err := json.Unmarshal(got, &back); err != nil || len(back) != 3 || back[0] != 1.5 || !back[1].Missing() {
		t.Errorf("Unmarshal = %v, %v", back, err)
	}
}
