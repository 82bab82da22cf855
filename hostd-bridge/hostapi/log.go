package hostapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// Bounds of a VM's log.
const (
	// DefaultLogBytes and DefaultLogFiles bound the log of a VM that has no KeyLog: what Docker's driver "local" keeps.
	DefaultLogBytes = 20_000_000
	DefaultLogFiles = 5
	// MinLogBytes is the least size of a file that is kept, in bytes: the longest record and the marker before it.
	MinLogBytes = 128 << 10
	// MaxLogFiles is how many files a log may have.
	MaxLogFiles = 1000
	// unstoredBytes and unstoredFiles bound what of a log that is not stored waits in memory for those who follow it.
	unstoredBytes = 256 << 10
	unstoredFiles = 2
)

// Log says how much of a VM's output its host keeps: the value of KeyLog, as JSON. Zero fields have their defaults.
type Log struct {
	// FileBytes is the size that a file of the log has at most, in bytes; less than MinLogBytes is that. When a file is full another one is
	// begun, and the oldest goes when there are more than Files. So a log never takes more than FileBytes times Files.
	FileBytes int64 `json:"fileBytes,omitempty"`
	Files     int   `json:"files,omitempty"` // 1 to MaxLogFiles
	// Discard: nothing is stored. The output goes to those who follow it.
	Discard bool `json:"discard,omitempty"`
}

// DecodeLog reads the value of KeyLog; an empty one is the default.
func DecodeLog(text string) (Log, error) {
	var l Log
	if text != "" {
		d := json.NewDecoder(bytes.NewReader([]byte(text)))
		d.DisallowUnknownFields()
		if err := d.Decode(&l); err != nil {
			return l, fmt.Errorf("cannot decode %s: %w", KeyLog, err)
		}
		if d.More() {
			return l, fmt.Errorf("cannot decode %s: something follows the value", KeyLog)
		}
	}
	if l.FileBytes < 0 || l.Files < 0 || l.Files > MaxLogFiles {
		return l, errors.New("cannot use " + KeyLog + ": want fileBytes of 0 or more, and files of 0 to " + fmt.Sprint(MaxLogFiles))
	}
	return l, nil
}

// Encode returns what DecodeLog reads; the default is empty, which removes the key.
func (l Log) Encode() string {
	if l == (Log{}) {
		return ""
	}
	text, _ := json.Marshal(l) // cannot fail: numbers and a bool
	return string(text)
}

// Bounds are the limits in force: of a file in bytes, and of their number.
func (l Log) Bounds() (fileBytes int64, files int) {
	if l.Discard {
		return unstoredBytes, unstoredFiles
	}
	fileBytes, files = l.FileBytes, l.Files
	if fileBytes == 0 {
		fileBytes = DefaultLogBytes
	}
	if files == 0 {
		files = DefaultLogFiles
	}
	return max(fileBytes, MinLogBytes), files
}
