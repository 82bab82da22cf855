package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/containervm/containervm/bench/internal/measure"
	"github.com/containervm/containervm/bench/internal/plots"
)

// markdown is RESULTS.md.
func (r *Report) markdown() string {
	var b strings.Builder
	m := r.Machine
	fmt.Fprintf(&b, "# Results\n\nMade by `make bench` on %s.\n\n", r.At.Format(time.DateOnly))
	writeTable(&b, []string{"CPU", "processors", "memory", "host's kernel", "accelerator", "QEMU", "Go", "guest's kernel", "load at the start"},
		[][]string{{m.CPU, fmt.Sprint(m.Processors), fmt.Sprintf("%d MiB", m.MemoryMiB), m.Kernel, m.Accel, m.QEMU, m.Go, fmt.Sprintf("%.12s", m.GuestSHA), m.Load}})
	b.WriteString("\nA ratio is the median of the ratios of paired rounds, with a bootstrap interval of 95 %; all sides of a group are measured by\n" +
		"turns in one run. Absolute figures do not carry to other machines. The noise is one side against itself, in the same rounds.\n" +
		"Rounds in which a probe took over twice its median are discarded and made up for; failures stay counted.\n" +
		"Raw samples: results.json. What is measured, where it falls short, and why: README.md.\n")
	r.writeGoals(&b)
	for _, res := range r.Results {
		writeResult(&b, res)
	}
	if len(r.NotRun) > 0 {
		b.WriteString("\n## Not run\n\n")
		for _, n := range r.NotRun {
			fmt.Fprintf(&b, "* %s: %s\n", n.Name, oneLine(n.Why))
		}
	}
	return b.String()
}

// writeGoals is the table of all comparisons.
func (r *Report) writeGoals(b *strings.Builder) {
	b.WriteString("\n## Ratios\n\n")
	var rows [][]string
	for _, res := range r.Results {
		for _, c := range res.Comparisons {
			rows = append(rows, ratioRow(c, res))
		}
	}
	writeTable(b, []string{"", "what", "ratio", "95 %", "p95", "goal (stretch)", "noise", "pairs", "failed"}, rows)
}

func ratioRow(c measure.Ratio, res measure.Result) []string {
	if c.NotRun != "" {
		return []string{c.Key, c.Name, "not run: " + short(c.NotRun), "", "", c.Goal, "", "", ""}
	}
	return []string{c.Key, c.Name, "**" + times(c.Median) + "**", interval(c.CI), times(c.P95), c.Goal,
		times(res.Noise.Median) + " (" + interval(res.Noise.CI) + ")", fmt.Sprint(c.Pairs), fmt.Sprint(c.Failed)}
}

// writeResult is the section of a group: its sides, its plots, and where the time went.
func writeResult(b *strings.Builder, res measure.Result) {
	fmt.Fprintf(b, "\n## %s\n\n%s; in %s. %d rounds, %d of them discarded", res.Title, upperFirst(res.About), res.Unit, len(res.Rounds), res.Discarded)
	if !res.At.IsZero() {
		fmt.Fprintf(b, ", on %s", res.At.Format(time.DateOnly))
	}
	b.WriteString(".\n\n")
	for _, p := range plots.Of(res) {
		fmt.Fprintf(b, "![%s](plots/%s.svg)\n\n", res.Title, p.Name)
	}
	each := hasEach(res)
	head := []string{"side", "median", "95 %", "p5", "p95", "ok", "failed"}
	if each {
		head = append(head, "one of them, median", "p95")
	}
	var rows [][]string
	for _, s := range res.Sides {
		rows = append(rows, sideRow(s, each))
	}
	writeTable(b, head, rows)
	writePhases(b, res)
	writeMemory(b, res)
}

func hasEach(res measure.Result) bool {
	for _, s := range res.Sides {
		if !s.EachMedian.Missing() {
			return true
		}
	}
	return false
}

func sideRow(s measure.Figure, each bool) []string {
	row := []string{s.Name, figure(s.Median), interval(s.CI), figure(s.P5), figure(s.P95), fmt.Sprint(s.OK), failedCell(s)}
	if s.NotRun != "" {
		row = []string{s.Name, "not run: " + short(s.NotRun), "", "", "", "", ""}
	}
	if each {
		row = append(row, figure(s.EachMedian), figure(s.EachP95))
	}
	return row
}

func failedCell(s measure.Figure) string {
	if s.Failed == 0 {
		return "0"
	}
	return fmt.Sprintf("%d: %s", s.Failed, short(s.Error))
}

func writeMemory(b *strings.Builder, res measure.Result) {
	var rows [][]string
	for _, s := range res.Sides {
		for _, m := range s.Memory {
			minor, major := "-", "-" // not known of a machine that its host measures
			if m.MinorFaults > 0 {
				minor, major = fmt.Sprint(m.MinorFaults), fmt.Sprint(m.MajorFaults)
			}
			rows = append(rows, []string{s.Name, fmt.Sprintf("%.1f", m.Seconds), fmt.Sprintf("%.2f", m.GuestMiB),
				fmt.Sprintf("%.1f", m.OverheadMiB), minor, major})
		}
	}
	if len(rows) > 0 {
		b.WriteString("\n")
		writeTable(b, []string{"side", "seconds after the first byte", "guest pages of its own, MiB", "QEMU itself, MiB", "minor faults", "major faults"}, rows)
	}
}
