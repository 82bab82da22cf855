package frames

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path/filepath"

	"github.com/containervm/containervm/hostd-bridge/internal/frames/unixsocket"
)

// maxHello bounds a Hello on the wire, in bytes.
const maxHello = 1 << 10

// Hello says whose card a connection is.
type Hello struct {
	VM  string `json:"vm"`  // reference of the virtual machine
	MAC string `json:"mac"` // of the card; frames from another are dropped
}

// WriteHello sends the first message of a connection.
func WriteHello(w io.Writer, h Hello) error {
	b, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if len(b) > maxHello {
		return fmt.Errorf("cannot introduce a card: %d bytes are more than %d", len(b), maxHello)
	}
	_, err = w.Write(Append(nil, b))
	return err
}

// ReadHello reads the first message of a connection and the address in it. It reads no byte behind it.
func ReadHello(r io.Reader) (Hello, Address, error) {
	var length [Prefix]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return Hello{}, Address{}, err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > maxHello {
		return Hello{}, Address{}, fmt.Errorf("a card's introduction has %d bytes, more than %d", n, maxHello)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return Hello{}, Address{}, err
	}
	var h Hello
	if err := json.Unmarshal(b, &h); err != nil {
		return Hello{}, Address{}, fmt.Errorf("cannot read a card's introduction: %w", err)
	}
	mac, err := ParseAddress(h.MAC)
	return h, mac, err
}

// Dial connects a card with the switch whose directory is dir. That the switch takes the card shows in nothing but that the
// connection stays: it is closed when the switch was not told of it.
func Dial(ctx context.Context, dir string, h Hello) (*net.UnixConn, error) {
	conn, err := unixsocket.Dial(ctx, filepath.Join(dir, Socket))
	if err != nil {
		return nil, fmt.Errorf("cannot reach the network's switch: %w", err)
	}
	if err := WriteHello(conn, h); err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot introduce the card to its switch: %w", err)
	}
	return conn, nil
}
