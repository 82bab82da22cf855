package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/containervm/containervm/tether/internal/boot"
)

// TestConsoleLevel: the kernel's command line says whether debug records reach the console.
func TestConsoleLevel(t *testing.T) {
	for cmdline, want := range map[string]int{"quiet": 1, "cvm.log=debug": 2, "cvm.log=loud": 1} {
		var out bytes.Buffer
		log := slog.New(newConsoleHandler(&out, consoleLevel(boot.ParseCmdline(cmdline)))).With("a", 1)
		log.Debug("detail")
		log.Info("news")
		if got := strings.Count(out.String(), "\n"); got != want || !strings.Contains(out.String(), "tether: news a=1\n") {
			t.Errorf("%s: %q", cmdline, &out)
		}
	}
}
