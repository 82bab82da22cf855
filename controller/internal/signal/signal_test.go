package signal

import "testing"

func TestParse(t *testing.T) {
	for in, want := range map[string]int32{
		"9": 9, "KILL": 9, "SIGKILL": 9, "sigterm": 15, "RTMIN": 34, "SIGRTMIN+3": 37, "RTMAX-1": 63, "64": 64,
		"": 0, "0": 0, "65": 0, "-1": 0, "NOPE": 0, "RTMIN+99": 0, "RTMAX+1": 0, "RTMIN-1": 0, "SIGSIGKILL": 0,
	} {
		got, err := Parse(in)
		if got != want || (err != nil) != (want == 0) {
			t.Errorf("Parse(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("SIGRTMIN+3")
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := Parse(s); err == nil && (n < 1 || n > rtMax) {
			t.Errorf("Parse(%q) = %d", s, n)
		}
	})
}
