package netswitch

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"

	"github.com/containervm/containervm/hostd-bridge/internal/frames"
)

// MaxMessage bounds a message of the control socket, in bytes: ten thousand endpoints with some names and ports fit.
const MaxMessage = 64 << 20

// Operations of a request. A connection carries any number, one after the other; its end is the end of the switch, or of the client.
const (
	OpApply = "apply"
	OpStats = "stats"
	OpStop  = "stop" // answered before the switch ends
)

// Request is what the daemon asks of a switch.
type Request struct {
	Op     string  `json:"op"`
	Config *Config `json:"config,omitempty"`
}

// Reply is the answer to a Request.
type Reply struct {
	Error  string  `json:"error,omitempty"`
	Result *Result `json:"result,omitempty"`
	Stats  *Stats  `json:"stats,omitempty"`
}

// Started is what the process says on its standard output when it serves, or why it does not.
type Started struct {
	Error string `json:"error,omitempty"`
}

// WriteMessage sends a message: 4 bytes of length, big-endian, and JSON.
func WriteMessage(w io.Writer, message any) error {
	body, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(body) > MaxMessage {
		return fmt.Errorf("a message to or from a switch has %d bytes, more than %d", len(body), MaxMessage)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	return err
}

// ReadMessage reads a message into one of the given type.
func ReadMessage(r io.Reader, message any) error {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > MaxMessage {
		return fmt.Errorf("a message to or from a switch has %d bytes, more than %d", n, MaxMessage)
	}
	// The length is only believed as far as bytes come.
	body, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err != nil {
		return err
	}
	if len(body) < int(n) {
		return io.ErrUnexpectedEOF
	}
	return json.Unmarshal(body, message)
}

// ControlPath is the control socket of the switch in dir.
func ControlPath(dir string) string { return filepath.Join(dir, frames.Control) }

// FramesPath is the socket for cards of the switch in dir.
func FramesPath(dir string) string { return filepath.Join(dir, frames.Socket) }

// LockPath is the file that the process holds a lock of (flock) as long as it lives.
func LockPath(dir string) string { return filepath.Join(dir, "lock") }

// LogPath is the file of the process's own log.
func LogPath(dir string) string { return filepath.Join(dir, "switch.log") }
