package hostapi

import (
	"slices"
	"strings"
	"testing"
)

func TestParsePortRanges(t *testing.T) {
	got, err := ParsePortRanges("5432,8000-8010,53/udp,7/tcp")
	want := []PortRange{{TCP, 5432, 5432}, {TCP, 8000, 8010}, {UDP, 53, 53}, {TCP, 7, 7}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("read as %v, %v; want %v", got, err, want)
	}
	if got, err := ParsePortRanges(""); err != nil || got != nil {
		t.Errorf("nothing is read as %v, %v", got, err)
	}
	for _, text := range []string{",", "0", "65536", "1-", "-1", "9-8", "1/sctp", "1/", "a", "1,", " 1", "+1"} {
		if got, err := ParsePortRanges(text); err == nil {
			t.Errorf("%q is read as %v", text, got)
		}
	}
}

// FuzzPortRanges: what is read is written as something that is read as the same.
func FuzzPortRanges(f *testing.F) {
	f.Add("5432,8000-8010,53/udp")
	f.Add("-")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := ParsePortRanges(text)
		if err != nil || all == nil {
			return
		}
		var words []string
		for _, r := range all {
			words = append(words, r.String())
		}
		if again, err := ParsePortRanges(strings.Join(words, ",")); err != nil || !slices.Equal(again, all) {
			t.Errorf("%q is %v, written %q, read as %v (%v)", text, all, words, again, err)
		}
	})
}
