// Package frames is what the supervisor of a machine and the switch of a network say to each other: names of sockets, the Hello
// of a card, and Ethernet frames behind it, as QEMU's `-netdev stream` writes them. It knows neither machines nor switches.
//
// A card is one connection to the switch's socket Socket. The client sends a Hello. From then on each side sends frames: 4 bytes
// of length, big-endian, then the frame from its destination address on, without a checksum. The switch closes the connection of
// a card that it was not told of, and the older of two connections of one card.
package frames

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
)

// Names of the sockets in a switch's directory, both unix streams.
const (
	Socket  = "frames.sock"  // one connection for each card
	Control = "control.sock" // hostd-bridge's
)

// Limits, in bytes.
const (
	// HeaderLen is the length of an Ethernet header (IEEE 802.3: two addresses and a type); a shorter frame is none.
	HeaderLen = 14
	// Max is the longest frame: the largest IP packet with its Ethernet header and, where one came to it, a VLAN tag.
	Max = 65535 + 18
	// Prefix is the length of the length in front of a frame.
	Prefix = 4
	// least is a Reader's buffer in the beginning, most what it grows to when frames fill it: the longest frame, and many of the
	// usual ones with one system call. Most cards rest nearly always.
	least = 8 << 10
	most  = 128 << 10
)

// ErrLength says that bytes are not what this package writes: the stream has no next frame that could be found.
var ErrLength = errors.New("the length of a frame is out of bounds")

// Append appends a frame, made of parts, with its length to b.
func Append(b []byte, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// Reader reads frames, as many as there are with one call of the connection. It is not for several goroutines at once.
type Reader struct {
	from        io.Reader
	buf         []byte
	start, end  int  // of what was read and not given out yet
	givenBefore int  // length of the last batch; its bytes are the caller's until the next call
	full        bool // the last read filled the buffer: there may be more
}

// NewReader returns a Reader of what comes from r after the Hello.
func NewReader(r io.Reader) *Reader { return &Reader{from: r, buf: make([]byte, least)} }

// Batch waits for a frame and returns all whole frames that have come, each with its length in front: one Write passes them on,
// and All looks at each. The bytes are valid until the next call. An error is the connection's, io.EOF when it ended between
// two frames, or ErrLength.
func (r *Reader) Batch() ([]byte, error) {
	r.start += r.givenBefore
	r.givenBefore = 0
	for {
		n, need, err := whole(r.buf[r.start:r.end])
		if n > 0 { // what is wrong behind it is found by the next call
			r.givenBefore = n
			return r.buf[r.start : r.start+n], nil
		}
		if err != nil {
			return nil, err
		}
		if r.start == r.end {
			r.start, r.end = 0, 0
		} else if r.start > 0 && (len(r.buf)-r.start < need || len(r.buf)-r.end < len(r.buf)/2) { // or reads would get small
			r.end = copy(r.buf, r.buf[r.start:r.end])
			r.start = 0
		}
		if len(r.buf) < most && (r.full || len(r.buf) < need) {
			r.buf = append(make([]byte, 0, most), r.buf[:r.end]...)[:most]
		}
		read, err := r.from.Read(r.buf[r.end:])
		r.end += read
		r.full = r.end == len(r.buf)
		if read == 0 && err != nil {
			if errors.Is(err, io.EOF) && r.end > r.start {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// whole returns how many bytes at the beginning of b are whole frames, and how many the one behind them needs in all.
func whole(b []byte) (n, need int, err error) {
	for {
		if len(b)-n < Prefix {
			return n, Prefix, nil
		}
		length := binary.BigEndian.Uint32(b[n:])
		if length < HeaderLen || length > Max {
			return n, 0, fmt.Errorf("%w: %d bytes", ErrLength, length)
		}
		if need = Prefix + int(length); len(b)-n < need {
			return n, need, nil
		}
		n += need
	}
}

// All yields the frames of a batch, without their lengths.
func All(batch []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for len(batch) >= Prefix {
			n := Prefix + int(binary.BigEndian.Uint32(batch))
			if !yield(batch[Prefix:n:n]) {
				return
			}
			batch = batch[n:]
		}
	}
}

// Address is a MAC address, for use as a key.
type Address [6]byte

// Broadcast is the address of all.
var Broadcast = Address{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// To returns the destination of a frame of at least HeaderLen bytes.
func To(frame []byte) Address { return Address(frame[0:6]) }

// From returns the source of a frame of at least HeaderLen bytes.
func From(frame []byte) Address { return Address(frame[6:12]) }

// Group reports whether the address means several cards: broadcast or multicast.
func (a Address) Group() bool { return a[0]&1 != 0 }

func (a Address) String() string { return net.HardwareAddr(a[:]).String() }

// ParseAddress reads six bytes in hexadecimal, with colons. It refuses addresses that no single card can have.
func ParseAddress(text string) (Address, error) {
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != len(Address{}) {
		return Address{}, fmt.Errorf("cannot use %q as a MAC address: want six bytes such as 02:42:ac:11:00:02", text)
	}
	a := Address(mac)
	if a.Group() || a == (Address{}) {
		return Address{}, fmt.Errorf("cannot use %q as a card's MAC address: it is nobody's, or many's", text)
	}
	return a, nil
}
