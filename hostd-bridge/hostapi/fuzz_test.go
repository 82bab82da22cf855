package hostapi

import (
	"encoding/json"
	"reflect"
	"testing"
)

// FuzzMarker: what is read as a marker is read so again from its own text.
func FuzzMarker(f *testing.F) {
	for _, text := range []string{"", "run 1", "run 2 fork 3 4", "fork 1 2", "run 18446744073709551615", "run  1", "run 1 fork", "run +1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ParseMarker(text)
		if err != nil || m.Run == 0 { // 0: from before runs had numbers
			return
		}
		if again, err := ParseMarker(m.String()); err != nil || !reflect.DeepEqual(again, m) {
			t.Errorf("%q is %+v, and that is written %q, read as %+v (%v)", text, m, m, again, err)
		}
	})
}

// FuzzExtra: whatever a host writes into its keys is read, or refused with an error.
func FuzzExtra(f *testing.F) {
	for _, text := range []string{"", "1", `{"run":1,"at":"2026-01-02T03:04:05Z","orderly":true,"reason":"r"}`, `[{"name":"begun","at":"2026-01-02T03:04:05Z"}]`, "{}", "[]", "null", `{"run":-1}`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if run := RunOf(map[string]string{KeyRun: text}); run != 0 && RunOf(map[string]string{KeyRun: run.String()}) != run {
			t.Errorf("%q is run %d", text, run)
		}
		if exit, err := DecodeExit(text); (err == nil) != (exit != nil) {
			t.Errorf("%q is exit %v and error %v", text, exit, err)
		}
		marks, err := DecodeTimeline(text)
		if err != nil {
			return
		}
		if _, err := json.Marshal(marks); err != nil {
			t.Errorf("%q is %v: %v", text, marks, err)
		}
	})
}

// FuzzBootFiles: an index that is taken names all that a VM needs.
func FuzzBootFiles(f *testing.F) {
	f.Add([]byte(`{"kernel":"k","kernelBz":"z","initrd":"i","blank":"b"}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		boot, err := DecodeBootFiles(data)
		if (err == nil) != (boot.Kernel != "" && boot.Initrd != "" && boot.Blank != "") {
			t.Errorf("%q: %+v, %v", data, boot, err)
		}
	})
}
