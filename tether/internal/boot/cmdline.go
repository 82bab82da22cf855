package boot

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
)

// PowerOffKey is the kernel command-line word that chooses how the machine is ended: "reset" where it has no power
// switch, as QEMU's microvm without ACPI, "acpi" where it has. Without it the tether looks for ACPI.
const PowerOffKey = "cvm.poweroff"

// LogKey is the kernel command-line word that chooses the least level of what the tether logs: "debug", "info", "warn" or "error".
const LogKey = "cvm.log"

// LogLevel is the level that the command line chooses, slog.LevelInfo without one. With an error it is slog.LevelInfo too.
func LogLevel(c Cmdline) (level slog.Level, err error) {
	if text, ok := c[LogKey]; ok {
		if err = level.UnmarshalText([]byte(text)); err != nil {
			return slog.LevelInfo, fmt.Errorf("cannot use %q as %s: want debug, info, warn or error", text, LogKey)
		}
	}
	return level, nil
}

// Cmdline is the kernel's command line as words; of a repeated word the last counts.
type Cmdline map[string]string

// ParseCmdline splits text as the kernel does (lib/cmdline.c, next_arg): at spaces outside double quotes.
func ParseCmdline(text string) Cmdline {
	c := Cmdline{}
	quoted := false
	words := strings.FieldsFunc(text, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && (r == ' ' || r == '\t' || r == '\n')
	})
	for _, word := range words {
		key, value, _ := strings.Cut(strings.ReplaceAll(word, `"`, ""), "=")
		c[key] = value
	}
	return c
}

// ReadCmdline reads the running kernel's command line.
func ReadCmdline() (Cmdline, error) {
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, fmt.Errorf("cannot read the kernel's command line: %w", err)
	}
	return ParseCmdline(string(text)), nil
}
