package record

import (
	"encoding/json"
	"time"
)

// Restart is how the restart policy of a container stands: the value of KeyRestart, as JSON. Nobody has stopped a container without one, and
// it was not restarted.
type Restart struct {
	Count   int           `json:"count,omitempty"`   // restarts by its policy since someone started it: Docker's RestartCount
	Delay   time.Duration `json:"delay,omitempty"`   // nanoseconds that were waited before the last of them
	Stopped bool          `json:"stopped,omitempty"` // someone has stopped it, and not started it since
	// Over: the run's end is not followed by a restart, until the controller starts anew: one was tried and failed, or the policy was given to a
	// container that had ended.
	Over bool `json:"over,omitempty"`
}

// DecodeRestart reads the value of KeyRestart. A VM without one, or with one that is damaged, has the zero value.
func DecodeRestart(text string) Restart {
	var r Restart
	if json.Unmarshal([]byte(text), &r) != nil {
		return Restart{}
	}
	return r
}

// Encode returns what DecodeRestart reads; the zero value is an empty text, which takes the key away.
func (r Restart) Encode() string {
	if r == (Restart{}) {
		return ""
	}
	text, _ := json.Marshal(r) // cannot fail: numbers and booleans
	return string(text)
}
