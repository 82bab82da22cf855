package boot

import (
	"testing"
)

func TestParseCmdline(t *testing.T) {
	c := ParseCmdline("console=ttyS0 quiet cvm.poweroff=acpi cvm.poweroff=reset x=\"a b\" \"y=c d\"\n")
	for key, want := range map[string]string{"console": "ttyS0", "quiet": "", "cvm.poweroff": "reset", "x": "a b", "y": "c d"} {
		if got, ok := c[key]; !ok || got != want {
			t.Errorf("%s is %q (%v), want %q", key, got, ok, want)
		}
	}
}

func TestPowerOffMethod(t *testing.T) {
	if PowerOffMethod(Cmdline{PowerOffKey: "reset"}) != Reset || PowerOffMethod(Cmdline{PowerOffKey: "acpi"}) != ACPI {
		t.Error("the command line does not choose")
	}
}
