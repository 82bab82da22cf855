package vm

import (
	"testing"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// TestGuestsTextIsShown: what a guest has set is shown to clients so that it does nothing on a terminal, and JSON in it means the same.
func TestGuestsTextIsShown(t *testing.T) {
	v := &VM{Config: Config{Extra: map[string]string{"mine": "\x1b"}}, Guest: map[string]string{
		hostapi.GuestPrefix + "a": "\x1b[2J\x07", hostapi.GuestPrefix + "b": "{\"x\":\"\u202e\u009b\xff\"}", hostapi.GuestPrefix + "c": "plain\n",
	}}
	for key, want := range map[string]string{
		"a": `\x1b[2J\x07`, "b": "{\"x\":\"\\u202e\\u009b\uFFFD\"}", "c": "plain\n",
	} {
		if got := v.ExtraConfig()[hostapi.GuestPrefix+key]; got != want {
			t.Errorf("%s is shown as %q, want %q", key, got, want)
		}
	}
	if got := v.ExtraConfig()["mine"]; got != "\x1b" { // a client's own words, which it gets back
		t.Errorf("a client's key is shown as %q", got)
	}
}
