package hostapi

import "testing"

func TestMarker(t *testing.T) {
	for text, want := range map[string]Marker{
		"":                {},
		"fork 2 1":        {Fork: &ForkMarker{2, 1}},
		"run 7":           {Run: 7},
		"run 7 fork 3 12": {Run: 7, Fork: &ForkMarker{3, 12}},
		"run 7 continued": {Run: 7, Continued: true},

		"run 7 fork 3 12 continued": {Run: 7, Fork: &ForkMarker{3, 12}, Continued: true},
	} {
		got, err := ParseMarker(text)
		if err != nil || got.Run != want.Run || got.Continued != want.Continued || (got.Fork == nil) != (want.Fork == nil) || (got.Fork != nil && *got.Fork != *want.Fork) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
		if want.Run != 0 && got.String() != text {
			t.Errorf("%q is written as %q", text, got)
		}
	}
	for _, text := range []string{"run", "run x", "run -1", "fork 1", "fork 1 2 3", "run 1 fork 4294967296 0", "walk 1", "continued", "run continued", "run 1 continued continued"} {
		if got, err := ParseMarker(text); err == nil {
			t.Errorf("%q is read as %+v", text, got)
		}
	}
}

func TestRunOf(t *testing.T) {
	for text, want := range map[string]Run{"": 0, "1": 1, "x": 0, "-1": 0, "9223372036854775808": 0} {
		if got := RunOf(map[string]string{KeyRun: text}); got != want {
			t.Errorf("%q: run %d, want %d", text, got, want)
		}
	}
}

func TestInherited(t *testing.T) {
	for key, want := range map[string]bool{
		KeyKernel: true, KeyMachine: true, "annotation": true,
		KeyRun: false, KeyExit: false, "cvm.role": false, "guestinfo.cvm.spec": false, "guestinfo.x": false,
	} {
		if got := Inherited(key); got != want {
			t.Errorf("%s: inherited %v", key, got)
		}
	}
}
