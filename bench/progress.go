package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/bench/internal/measure"
)

// progress tells on a terminal what is being measured, in one line; elsewhere only what group is.
type progress struct {
	w        io.Writer
	terminal bool
}

func newProgress(f *os.File) *progress {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return &progress{w: f, terminal: err == nil}
}

func (p *progress) round(group string, round, rounds int, side string) {
	if p.terminal {
		p.line(fmt.Sprintf("%s: round %d of %d: %s", group, round, rounds, side))
	}
}

func (p *progress) say(group, what string) {
	if p.terminal {
		p.line(group + ": " + what)
		return
	}
	fmt.Fprintf(p.w, "%s: measuring\n", group)
}

func (p *progress) line(text string) { fmt.Fprintf(p.w, "\r\x1b[K%.100s", text) }

func (p *progress) done() {
	if p.terminal {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// writeGroup is the table of a group for a terminal.
func writeGroup(w io.Writer, r measure.Result) {
	fmt.Fprintf(w, "\n%s (%d rounds, %d discarded; %s)\n", r.Title, len(r.Rounds), r.Discarded, r.Unit)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, s := range r.Sides {
		if s.NotRun != "" {
			fmt.Fprintf(t, "  %s\tnot run: %.90s\n", s.Name, oneLine(s.NotRun))
			continue
		}
		fmt.Fprintf(t, "  %s\t%s\tp95 %s\t%s\n", s.Name, figure(s.Median), figure(s.P95), failures(s.Failed, s.Error))
	}
	for _, c := range r.Comparisons {
		if c.NotRun == "" {
			fmt.Fprintf(t, "  %s %s\t%s\t%s\t%s\n", c.Key, c.Name, times(c.Median), interval(c.CI), c.Goal)
		}
	}
	t.Flush() // to a terminal; there is no one to tell
}

func failures(n int, why string) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d failed: %.90s", n, oneLine(why))
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
