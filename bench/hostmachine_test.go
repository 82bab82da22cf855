package main

import (
	"strings"
	"testing"

	"github.com/containervm/containervm/bench/internal/measure"
)

func TestDecodeMemory(t *testing.T) {
	const text = `{"machines":[{"vm":"vm-1","sharedKiB":40960,"guestPrivateKiB":0,"overheadKiB":0},{"vm":"vm-12","sharedKiB":40960,"guestPrivateKiB":1536,"overheadKiB":20480}]}`
	got, err := decodeMemory(strings.NewReader(text), "vm-12")
	if want := (measure.Memory{GuestMiB: 1.5, OverheadMiB: 20}); err != nil || got != want {
		t.Errorf("decodeMemory = %+v, %v; want %+v", got, err, want)
	}
	for text, ref := range map[string]string{text: "vm-2", `{"machines":3}`: "vm-1", "": "vm-1", `{"machines":[]}`: ""} {
		if m, err := decodeMemory(strings.NewReader(text), ref); err == nil {
			t.Errorf("%s of %q = %+v", ref, text, m)
		}
	}
}
