package link

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Limits of a guestinfo message, in bytes.
const (
	// MaxMessage is the longest text of a guestinfo message.
	MaxMessage = 1 << 20
	// MaxKey is the longest key.
	MaxKey = 256
	// MaxValue is the longest value: it fits a message with any command and key before it.
	MaxValue = MaxMessage - 2*MaxKey
	// MaxGreeting is the longest first message of a connection, by which it says whose it is.
	MaxGreeting = 2 * MaxKey
)

// Names of the guestinfo commands. The first three are VMware's own (open-vm-tools, rpctool and instant clone).
const (
	CommandInfoGet = "info-get"
	CommandInfoSet = "info-set"
	CommandFreeze  = "instantclone.freeze"
	CommandTime    = "cvm.time" // answers the host's clock, nanoseconds since the Unix epoch, in decimal
	CommandWait    = "cvm.wait" // as info-get, but answers only when the key has a value
	CommandSeed    = "cvm.seed" // answers SeedBytes random bytes in base64, other ones each time
	// CommandHello is the first message of a machine's first connection. It answers the machine's token and the value of its key, if
	// that has one, behind a space.
	CommandHello = "cvm.hello"
	// CommandToken is the first message of every other connection to the host, of whatever service. It has no answer.
	CommandToken = "cvm.token"
)

// TokenLength is how long a token is, in bytes: 256 random bits in hexadecimal.
const TokenLength = 64

// NewToken is a machine's token: what tells its tether's connections from those of its container.
func NewToken() string {
	var b [TokenLength / 2]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// SeedBytes is how many bytes CommandSeed answers: twice what Linux's generator takes as its key (drivers/char/random.c).
const SeedBytes = 64

// ErrNoValue is what info-get answers for a key that is not set; VMware's words.
var ErrNoValue error = &RPCIError{Why: "No value found"}

// RPCIError is a refusal by the host: the text behind "0 " in its reply.
type RPCIError struct{ Why string }

func (e *RPCIError) Error() string { return "host refused: " + e.Why }

// Is reports whether target is the same refusal.
func (e *RPCIError) Is(target error) bool {
	other, ok := target.(*RPCIError)
	return ok && other.Why == e.Why
}

// WriteMessage writes one guestinfo message, a 4-byte big-endian length and the text, with a single Write.
func WriteMessage(w io.Writer, text string) error {
	if len(text) > MaxMessage {
		return fmt.Errorf("cannot send guestinfo message: it has %d bytes, the limit is %d", len(text), MaxMessage)
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(text)), uint32(len(text)))
	if _, err := w.Write(append(b, text...)); err != nil {
		return fmt.Errorf("cannot send guestinfo message: %w", err)
	}
	return nil
}

// ReadMessage reads one guestinfo message. It returns io.EOF, unwrapped, when the peer ended the connection between
// two messages. Memory is taken as the text arrives, not as its length promises.
func ReadMessage(r io.Reader) (string, error) { return readMessage(r, MaxMessage) }

// ReadGreeting is ReadMessage for the first message of a connection, whose sender is not known yet: it has at most MaxGreeting bytes.
func ReadGreeting(r io.Reader) (string, error) { return readMessage(r, MaxGreeting) }

func readMessage(r io.Reader, limit uint32) (string, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err == io.EOF {
		return "", io.EOF
	} else if err != nil {
		return "", fmt.Errorf("cannot read length of guestinfo message: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > limit {
		return "", fmt.Errorf("cannot read guestinfo message: it has %d bytes, the limit is %d", n, limit)
	}
	var text strings.Builder
	if _, err := io.CopyN(&text, r, int64(n)); errors.Is(err, io.EOF) {
		return "", fmt.Errorf("cannot read guestinfo message: %d of %d bytes: %w", text.Len(), n, io.ErrUnexpectedEOF)
	} else if err != nil {
		return "", fmt.Errorf("cannot read guestinfo message: %w", err)
	}
	return text.String(), nil
}

// Command is a guestinfo request. Key and Value are set only where the command has them.
type Command struct {
	Name  string // one of the Command constants
	Key   string // 1 to MaxKey printable ASCII characters without space
	Value string // everything behind the key and one space; of CommandToken the token
}

// String is the command as it is sent.
func (c Command) String() string {
	switch c.Name {
	case CommandInfoGet, CommandWait, CommandHello:
		return c.Name + " " + c.Key
	case CommandToken:
		return c.Name + " " + c.Value
	case CommandInfoSet:
		return c.Name + " " + c.Key + " " + c.Value
	default:
		return c.Name
	}
}

// ParseCommand decodes a guestinfo request.
func ParseCommand(text string) (Command, error) {
	name, rest, _ := strings.Cut(text, " ")
	switch name {
	case CommandFreeze, CommandTime, CommandSeed:
		if rest != "" {
			return Command{}, fmt.Errorf("cannot parse command %s: it takes no arguments", name)
		}
		return Command{Name: name}, nil
	case CommandInfoGet, CommandWait, CommandHello:
		return keyed(Command{Name: name, Key: rest})
	case CommandToken:
		if len(rest) != TokenLength {
			return Command{}, fmt.Errorf("cannot parse command %s: its token has %d bytes, not %d", name, len(rest), TokenLength)
		}
		return Command{Name: name, Value: rest}, nil
	case CommandInfoSet:
		key, value, _ := strings.Cut(rest, " ")
		return keyed(Command{Name: name, Key: key, Value: value})
	default:
		return Command{}, fmt.Errorf("cannot parse command: unknown name %.32q", name)
	}
}

func keyed(c Command) (Command, error) {
	if len(c.Key) == 0 || len(c.Key) > MaxKey {
		return Command{}, fmt.Errorf("cannot parse command %s: its key has %d bytes, not 1 to %d", c.Name, len(c.Key), MaxKey)
	}
	if i := strings.IndexFunc(c.Key, func(r rune) bool { return r <= ' ' || r > '~' }); i >= 0 {
		return Command{}, fmt.Errorf("cannot parse command %s: character %d of its key is not printable ASCII", c.Name, i)
	}
	return c, nil
}

// ReplyOK is the reply to a command that succeeded.
func ReplyOK(value string) string { return "1 " + value }

// ReplyError is the reply to a command that the host refuses; why is one line for people.
func ReplyError(why string) string { return "0 " + why }

// ParseReply decodes a reply. The error is a *RPCIError when the host refused.
func ParseReply(text string) (value string, err error) {
	status, rest, _ := strings.Cut(text, " ")
	switch status {
	case "1":
		return rest, nil
	case "0":
		return "", &RPCIError{Why: rest}
	default:
		return "", fmt.Errorf("cannot parse guestinfo reply %.32q: it begins with neither 0 nor 1", text)
	}
}
