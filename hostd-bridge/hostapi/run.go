package hostapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Run is the number of a VM's run: the life of its machine from a power-on, or from the clone that made the VM, to its end. The
// host counts a VM's runs from 1 and uses no number twice, also when a start failed. 0 is no run.
type Run uint64

// RunOf reads KeyRun from extraConfig; 0: the VM never ran, or its host does not count runs.
func RunOf(extra map[string]string) Run {
	n, err := strconv.ParseUint(extra[KeyRun], 10, 63)
	if err != nil { // absent, or not by such a host
		return 0
	}
	return Run(n)
}

func (r Run) String() string { return strconv.FormatUint(uint64(r), 10) }

// Exit says how a run ended: the value of KeyExit.
type Exit struct {
	Run Run       `json:"run"`
	At  time.Time `json:"at"` // by the host's clock
	// Orderly: the guest powered itself off.
	Orderly bool `json:"orderly"`
	// Reason is for people: what ended it ("guest kernel panic: ...", "QEMU killed by signal 9").
	Reason string `json:"reason"`
	// ConsoleTail is the end of the guest's console, at most 4 KiB.
	ConsoleTail string `json:"consoleTail,omitempty"`
}

// Mark is a point of a start-up timeline, by the host's clock.
type Mark struct {
	Name string    `json:"name"`
	At   time.Time `json:"at"`
}

// Names of marks, in the order in which a fork has them; a boot has no MarkLoaded and MarkResumed.
const (
	MarkBegun     = "begun"     // the power-on or the clone has begun
	MarkPrepared  = "prepared"  // QEMU runs and waits
	MarkLoaded    = "loaded"    // the fork point's state is loaded
	MarkResumed   = "resumed"   // the CPUs run
	MarkHello     = "hello"     // the guest's first word
	MarkLinked    = "linked"    // frames of a fork may pass
	MarkFirstByte = "firstByte" // of the process's output
)

// DecodeExit reads the value of KeyExit.
func DecodeExit(text string) (*Exit, error) {
	exit := &Exit{}
	if err := json.Unmarshal([]byte(text), exit); err != nil {
		return nil, fmt.Errorf("cannot decode %s: %w", KeyExit, err)
	}
	return exit, nil
}

// DecodeTimeline reads the value of KeyTimeline.
func DecodeTimeline(text string) ([]Mark, error) {
	var marks []Mark
	if err := json.Unmarshal([]byte(text), &marks); err != nil {
		return nil, fmt.Errorf("cannot decode %s: %w", KeyTimeline, err)
	}
	return marks, nil
}

// Marker is the payload of a run marker in a log (link.StreamRun): "run N", or of a fork "run N fork GENERATION INDEX". What was
// written before runs were numbered is empty, or "fork GENERATION INDEX". With "continued" behind that the run goes on: the marker stands at
// the beginning of a file of the log, so that one is found after the file with the run's first one is gone.
type Marker struct {
	Run       Run
	Fork      *ForkMarker // nil: the machine was booted, or is a template's child
	Continued bool
}

// continued is the last word of the marker of a run that goes on.
const continued = "continued"

// ForkMarker says where a fork stands among its kind; tether/link's message Fork has the same numbers.
type ForkMarker struct{ Generation, Index uint32 }

func (m Marker) String() string {
	text := "run " + m.Run.String()
	if m.Fork != nil {
		text += fmt.Sprintf(" fork %d %d", m.Fork.Generation, m.Fork.Index)
	}
	if m.Continued {
		text += " " + continued
	}
	return text
}

// ParseMarker reads the payload of a run marker.
func ParseMarker(text string) (Marker, error) {
	var m Marker
	words := strings.Fields(text)
	if n := len(words); n >= 2 && words[0] == "run" && words[n-1] == continued {
		m.Continued, words = true, words[:n-1]
	}
	if len(words) >= 2 && words[0] == "run" {
		n, err := strconv.ParseUint(words[1], 10, 63)
		if err != nil {
			return m, fmt.Errorf("cannot read run marker %.64q: %w", text, err)
		}
		m.Run, words = Run(n), words[2:]
	}
	if len(words) == 0 {
		return m, nil
	}
	if len(words) != 3 || words[0] != "fork" {
		return m, fmt.Errorf("cannot read run marker %.64q: want \"run N\" or \"run N fork GENERATION INDEX\", and \"continued\" or nothing", text)
	}
	generation, err1 := strconv.ParseUint(words[1], 10, 32)
	index, err2 := strconv.ParseUint(words[2], 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return m, fmt.Errorf("cannot read run marker %.64q: %w", text, err)
	}
	m.Fork = &ForkMarker{Generation: uint32(generation), Index: uint32(index)}
	return m, nil
}
