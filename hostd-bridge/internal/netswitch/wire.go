package netswitch

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"

	"github.com/containervm/containervm/hostd-bridge/internal/frames"
)

// maxMessage bounds a message of the control socket, in bytes: maxEndpoints with some names and ports fit.
const maxMessage = 64 << 20

// Operations of a request. A connection carries any number, one after the other; its end is the end of the switch, or of the client.
const (
	opApply = "apply"
	opStats = "stats"
	opStop  = "stop" // answered before the switch ends
)

type request struct {
	Op     string  `json:"op"`
	Config *Config `json:"config,omitempty"`
}

type reply struct {
	Error  string  `json:"error,omitempty"`
	Result *Result `json:"result,omitempty"`
	Stats  *Stats  `json:"stats,omitempty"`
}

// writeMessage sends a message: 4 bytes of length, big-endian, and JSON.
func writeMessage(w io.Writer, message any) error {
	body, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(body) > maxMessage {
		return fmt.Errorf("a message to or from a switch has %d bytes, more than %d", len(body), maxMessage)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	return err
}

// readMessage reads a message into one of the given type.
func readMessage(r io.Reader, message any) error {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > maxMessage {
		return fmt.Errorf("a message to or from a switch has %d bytes, more than %d", n, maxMessage)
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

func controlPath(dir string) string { return filepath.Join(dir, frames.Control) }
func framesPath(dir string) string  { return filepath.Join(dir, frames.Socket) }

// lockPath is the file that the process holds a lock of (flock) as long as it lives.
func lockPath(dir string) string { return filepath.Join(dir, "lock") }

// logPath is the file of the process's own log.
func logPath(dir string) string { return filepath.Join(dir, "switch.log") }
