package conformance

import (
	"regexp"
	"strings"
)

// Normaliser takes out of a command's output what is never the same twice.
type Normaliser struct {
	own         *strings.Replacer // the side's own paths
	firstLetter *regexp.Regexp    // of messages: Docker 23 and later begin in lower case what Debian's begins with a capital
	rules       []rule
}

type rule struct {
	pattern *regexp.Regexp
	instead string
}

// NewNormaliser makes one for a side; own are pairs of a path of the side and what stands for it.
func NewNormaliser(own ...string) *Normaliser {
	n := &Normaliser{own: strings.NewReplacer(own...), firstLetter: regexp.MustCompile(`(?:Error response from daemon: |"message":")[A-Z][a-z' ]`)}
	for _, r := range [][2]string{
		{`\r`, ``},
		// What the command line says of its own goroutines comes or not, and before or after the rest.
		{`(?m)^time="[^"]*" level=error msg="(error waiting for container: context canceled|Can't [^"]* on closed pipe)"\n?`, ``},
		// Why a registry is not reached is this machine's network.
		{`([Gg]et "https?://[^"]*"): [^\n]*`, `$1: <unreachable>`},
		{`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)?( [+-]\d{4})?( UTC)?`, `<time>`},
		{`\b(Less than a second|About an? (second|minute|hour)|\d+ (seconds?|minutes?|hours?|days?|weeks?|months?|years?))( ago)?\b`, `<duration>`},
		{`\b[0-9a-f]{64}\b`, `<id>`},
		{`\b[0-9a-f]{12}\b`, `<short id>`},
		{`\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b`, `<mac>`},
		{`\b(172|192)\.\d{1,3}\.\d{1,3}\.\d{1,3}\b`, `<address>`},
		{`\b(0\.0\.0\.0|\[?::\]?|127\.0\.0\.1):(3[2-9]|4\d|5\d|6\d)\d{3}\b`, `$1:<port>`},
		{`\b\d+(\.\d+)? ?([kMGT]i?)?B\b`, `<size>`},
		{` {2,}`, `  `},
		{`(?m) +$`, ``},
	} {
		n.rules = append(n.rules, rule{regexp.MustCompile(r[0]), r[1]})
	}
	return n
}

// Lines returns a normalised output as lines.
func (n *Normaliser) Lines(text string) []string {
	text = n.firstLetter.ReplaceAllStringFunc(n.own.Replace(text), lowerFirst)
	for _, r := range n.rules {
		text = r.pattern.ReplaceAllString(text, r.instead)
	}
	text = strings.TrimSuffix(text, "\n")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// lowerFirst makes the letter before the last of a text a small one.
func lowerFirst(text string) string {
	at := len(text) - 2
	return text[:at] + strings.ToLower(text[at:])
}
