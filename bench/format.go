package main

import (
	"fmt"
	"strings"

	"github.com/containervm/containervm/bench/internal/measure"
)

// figure has three digits, and no more of them behind the point than there is to tell.
func figure(n measure.Number) string {
	switch {
	case n.Missing():
		return "-"
	case n >= 100:
		return fmt.Sprintf("%.0f", float64(n))
	case n >= 10:
		return fmt.Sprintf("%.1f", float64(n))
	}
	return fmt.Sprintf("%.2f", float64(n))
}

func times(n measure.Number) string { return figure(n) }

func interval(i measure.Interval) string { return figure(i.Low) + " to " + figure(i.High) }

// writeTable writes a table of Markdown. Cells may hold anything.
func writeTable(b *strings.Builder, head []string, rows [][]string) {
	line := func(cells []string) {
		b.WriteString("|")
		for _, c := range cells {
			b.WriteString(" " + strings.ReplaceAll(oneLine(c), "|", `\|`) + " |")
		}
		b.WriteString("\n")
	}
	line(head)
	b.WriteString("|" + strings.Repeat("---|", len(head)) + "\n")
	for _, r := range rows {
		line(r)
	}
}

// maxReason is how much of a reason fits into a table, in bytes; results.json has all of it.
const maxReason = 160

func short(text string) string {
	text = oneLine(text)
	if len(text) <= maxReason {
		return text
	}
	return strings.ToValidUTF8(text[:maxReason], "") + "…"
}

func upperFirst(text string) string {
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:]
}
