package boot

import (
	"log/slog"
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

func TestLogLevel(t *testing.T) {
	for text, want := range map[string]slog.Level{
		"quiet": slog.LevelInfo, "cvm.log=debug": slog.LevelDebug, "cvm.log=ERROR": slog.LevelError, "cvm.log=loud": slog.LevelInfo, "cvm.log": slog.LevelInfo,
	} {
		level, err := LogLevel(ParseCmdline(text))
		if wrong := text == "cvm.log=loud" || text == "cvm.log"; level != want || (err != nil) != wrong {
			t.Errorf("%s: %v, %v, want %v", text, level, err, want)
		}
	}
}
