package api

import "testing"

func TestNetworkFilterText(t *testing.T) {
	for _, c := range []struct {
		value, text string
		want        bool
	}{{"ri", "bridge", true}, {"^bri", "bridge", true}, {"x", "bridge", false}, {"[", "a[b", true}, {"[", "bridge", false}} {
		if got := fitsText(c.value, c.text); got != c.want {
			t.Errorf("%q fits %q: %v", c.value, c.text, got)
		}
	}
}
