package main

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// Parts of the host whose logs have levels of their own.
const (
	partHostd      = "hostd-bridge" // cvm.log
	partController = "controller"   // cvm.log
	partSupervisor = "supervisor"   // supervisor.log of each machine
	partTether     = "tether"       // console.log of each machine
)

func logParts() []string { return []string{partHostd, partController, partSupervisor, partTether} }

// logLevels are the levels of the parts' logs, as the flag --log has them: "debug" for all, "controller=debug,tether=debug"
// for some. A part that is not named is at "info". Of supervisor and tether there is no more than info and debug.
type logLevels map[string]slog.Level

// String, Set and Type make it a pflag.Value.
func (l logLevels) String() string {
	var words []string
	for _, part := range logParts() {
		if level, ok := l[part]; ok {
			words = append(words, part+"="+strings.ToLower(level.String()))
		}
	}
	return strings.Join(words, ",")
}

// Set reads levels over those that are there.
func (l logLevels) Set(text string) error {
	for word := range strings.SplitSeq(text, ",") {
		part, name, found := strings.Cut(word, "=")
		parts := []string{part}
		if !found {
			parts, name = logParts(), word
		} else if !slices.Contains(logParts(), part) {
			return fmt.Errorf("there is no part %q: it is one of %s", part, strings.Join(logParts(), ", "))
		}
		var level slog.Level
		if err := level.UnmarshalText([]byte(name)); err != nil {
			return fmt.Errorf("there is no level %q: it is debug, info, warn or error", name)
		}
		for _, part := range parts {
			l[part] = level
		}
	}
	return nil
}

// Type is what the flag's help calls the value.
func (l logLevels) Type() string { return "LEVELS" }

// debug reports whether a part's debug records are wanted.
func (l logLevels) debug(part string) bool { return l[part] <= slog.LevelDebug }
