package conformance

import (
	"fmt"
	"strings"
)

// Step is one command of a session.
type Step struct {
	Line     int
	Command  string
	Compared bool // else it only has to succeed
	Key      string
}

// Parse reads a session. A command that is not the first of its text in the session has its number in the key, which is what the list of
// differences calls it.
func Parse(text string) ([]Step, error) {
	var steps []Step
	seen := map[string]int{}
	for i, line := range strings.Split(text, "\n") {
		mark, command, _ := strings.Cut(line, " ")
		switch {
		case strings.TrimSpace(line) == "", strings.HasPrefix(line, "#"):
		case mark == "$" || mark == ">":
			if seen[command]++; seen[command] > 1 {
				steps = append(steps, Step{i + 1, command, mark == "$", fmt.Sprintf("%s #%d", command, seen[command])})
				continue
			}
			steps = append(steps, Step{i + 1, command, mark == "$", command})
		default:
			return nil, fmt.Errorf("line %d: want \"$ command\", \"> command\" or a comment, have %q", i+1, line)
		}
	}
	return steps, nil
}
