package image

import "github.com/opencontainers/go-digest"

// Event is one line of progress. Either Stream is set, a line for people, or Status with the ID of what it is about
// (empty: the whole operation) and, while bytes move, how many of how many (Total 0: unknown), or Aux, something for programs.
type Event struct {
	ID, Status     string
	Current, Total int64
	Stream         string
	Aux            any // as JSON
}

// Progress receives events; several goroutines may call it at a time, and often: it is up to the receiver to thin
// them out.
type Progress func(Event)

func (p Progress) status(id, status string) { p(Event{ID: id, Status: status}) }
func (p Progress) bytes(id, status string, done, size int64) {
	p(Event{ID: id, Status: status, Current: done, Total: size})
}
func (p Progress) stream(line string) { p(Event{Stream: line}) }

// wording is what a pull and a load call the same steps.
type wording struct {
	unpacking string
	unpacked  string // empty: not said
}

var (
	wordsOfPull = wording{"Extracting", "Pull complete"}
	wordsOfLoad = wording{"Loading layer", ""}
)

// shortID is a digest as Docker shows it: the first 12 hexadecimal digits.
func shortID(d digest.Digest) string {
	hex := d.Encoded()
	return hex[:min(12, len(hex))]
}
