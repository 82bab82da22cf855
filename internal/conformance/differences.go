package conformance

import (
	"fmt"
	"slices"
	"strings"
)

// Output is what a command printed, normalised, and how it ended.
type Output struct {
	Stdout, Stderr []string
	Status         int
}

// Compare returns the lines that dockerd has and this engine does not ("-") and the other way round ("+"), each with the stream that it is
// on; nil if there are none.
func Compare(theirs, ours Output) []string {
	var lines []string
	if theirs.Status != ours.Status {
		lines = append(lines, fmt.Sprintf("- exit: %d", theirs.Status), fmt.Sprintf("+ exit: %d", ours.Status))
	}
	lines = append(lines, diff("out", theirs.Stdout, ours.Stdout)...)
	return append(lines, diff("err", theirs.Stderr, ours.Stderr)...)
}

// maxLines bounds the table of a comparison; beyond it outputs are compared as they stand.
const maxLines = 1000

// diff finds the lines that are not part of the longest common subsequence.
func diff(stream string, a, b []string) (lines []string) {
	if slices.Equal(a, b) {
		return nil
	}
	if len(a) > maxLines || len(b) > maxLines {
		return []string{fmt.Sprintf("- %s: %d lines", stream, len(a)), fmt.Sprintf("+ %s: %d other lines", stream, len(b))}
	}
	common := make([][]int, len(a)+1) // common[i][j]: length of the subsequence of a[i:] and b[j:]
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			lines = append(lines, "- "+stream+": "+a[i])
			i++
		default:
			lines = append(lines, "+ "+stream+": "+b[j])
			j++
		}
	}
	return lines
}

// Difference is one that is known.
type Difference struct {
	Session, Key string
	Why          string // empty: nobody has said
	Lines        []string
}

// Differences is the list of them, in the order of the file.
type Differences []Difference

// ParseDifferences reads the list. Each begins with "[session] command", then "why: …", then the lines of Compare.
func ParseDifferences(text string) (list Differences, err error) {
	for i, line := range strings.Split(text, "\n") {
		last := len(list) - 1
		switch {
		case strings.TrimSpace(line) == "", strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			session, key, ok := strings.Cut(line[1:], "] ")
			if !ok {
				return nil, fmt.Errorf("line %d: want \"[session] command\", have %q", i+1, line)
			}
			if list.Find(session, key) != nil {
				return nil, fmt.Errorf("line %d: a second entry of [%s] %s", i+1, session, key)
			}
			list = append(list, Difference{Session: session, Key: key})
		case last >= 0 && strings.HasPrefix(line, "why:"):
			list[last].Why = strings.TrimSpace(line[4:])
		case last >= 0 && (strings.HasPrefix(line, "- ") || strings.HasPrefix(line, "+ ")):
			list[last].Lines = append(list[last].Lines, line)
		default:
			return nil, fmt.Errorf("line %d: no part of an entry: %q", i+1, line)
		}
	}
	return list, nil
}

// Find returns the entry of a command, or nil.
func (d Differences) Find(session, key string) *Difference {
	for i := range d {
		if d[i].Session == session && d[i].Key == key {
			return &d[i]
		}
	}
	return nil
}

// Format is the text of the list.
func (d Differences) Format() string {
	var b strings.Builder
	b.WriteString("# What differs between dockerd (Debian's, \"-\") and this engine (\"+\"), and why that is right. See doc.go.\n")
	for _, e := range d {
		fmt.Fprintf(&b, "\n[%s] %s\nwhy: %s\n", e.Session, e.Key, e.Why)
		for _, line := range e.Lines {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}
