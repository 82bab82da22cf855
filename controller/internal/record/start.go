package record

import (
	"encoding/json"
	"time"
)

// Start says how the controller brought up the machine of the present or last run: the value of KeyStart, as JSON.
type Start struct {
	Why   string `json:"why,omitempty"` // it was booted, or not forked in the usual way
	Marks []Mark `json:"marks,omitempty"`
}

// Mark is a point of a start-up timeline, by the clock of whoever made it.
type Mark struct {
	Name     string `json:"name"`
	UnixNano int64  `json:"unixNano"`
}

// MarkAt is the mark of a moment.
func MarkAt(name string, at time.Time) Mark { return Mark{Name: name, UnixNano: at.UnixNano()} }

// DecodeStart reads the value of KeyStart. A VM without one, or with one that is damaged, has none: it is only shown.
func DecodeStart(text string) Start {
	var s Start
	_ = json.Unmarshal([]byte(text), &s)
	return s
}

// Encode returns what DecodeStart reads.
func (s Start) Encode() string {
	text, _ := json.Marshal(s) // cannot fail: strings and numbers
	return string(text)
}
