package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/yamux"
)

// ErrLost says that a connection, or one stream of it, ended before what it carried did. A reader of output may open
// the stream again at the offset it has reached.
var ErrLost = errors.New("link connection lost")

// lost is ErrLost with its cause in words: an io.EOF below must not look like the end of the data.
func lost(cause error) error { return fmt.Errorf("%w: %v", ErrLost, cause) }

const (
	// MaxStreams is how many streams a session may have open at once beside the control stream.
	MaxStreams = 128
	// streamWindow is what a peer may send on a stream before it is read, in bytes: it covers 100 MB/s over a
	// relay with 10 ms round trip. A stream whose reader stalls costs as much memory.
	streamWindow = 1 << 20
	// noTimeout stands for none where yamux demands a duration.
	noTimeout = 365 * 24 * time.Hour
	// closeTimeout is how long a stream closed here waits for its peer's close before yamux forgets it.
	closeTimeout = 5 * time.Minute
)

// muxConfig is yamux without tickers and time-outs: a guest that is paused, or slow, keeps its session however long
// that lasts. What ends a session is its connection, or its owner's Close.
func muxConfig(log *slog.Logger) *yamux.Config {
	return &yamux.Config{
		AcceptBacklog:          2 * MaxStreams,
		EnableKeepAlive:        false,
		KeepAliveInterval:      noTimeout,
		ConnectionWriteTimeout: noTimeout,
		StreamOpenTimeout:      0, // none
		StreamCloseTimeout:     closeTimeout,
		MaxStreamWindowSize:    streamWindow,
		Logger:                 muxLog{log},
	}
}

// muxLog receives what yamux has to say; all of it also reaches a caller as an error.
type muxLog struct{ log *slog.Logger }

func (l muxLog) Print(v ...any)                 { l.log.Debug(fmt.Sprint(v...)) }
func (l muxLog) Println(v ...any)               { l.log.Debug(fmt.Sprint(v...)) }
func (l muxLog) Printf(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }

// yamux's data frames (its spec.md): a header of 12 bytes with the type in byte 1 and the length in the last 4.
const (
	muxHeaderLength = 12
	muxTypeData     = 0x0
	muxTypePing     = 0x2
)

// errPing ends a session whose peer pings. Nobody does so by this protocol, and yamux starts a goroutine for each ping, which waits until the
// peer reads: a peer that does not could fill our memory.
var errPing = errors.New("the peer pings, which is no part of link")

// joiner sends a yamux data header and its payload, which yamux writes apart, by one Write: on vsock every Write is a
// packet, and an interrupt of the guest or an exit to the host. Only yamux's one sending goroutine writes to it.
//
// It follows the frames of what is received, too: those that link does not use end the session before yamux sees them.
type joiner struct {
	net.Conn
	held []byte // a data header whose payload comes next

	head    [muxHeaderLength]byte // of the frame that is being received; yamux's one receiving goroutine alone reads
	got     int                   // bytes of head
	payload uint64                // bytes of the frame that are still to come
}

func (j *joiner) Read(p []byte) (int, error) {
	n, err := j.Conn.Read(p)
	if refused := j.follow(p[:n]); refused != nil {
		return 0, refused
	}
	return n, err
}

// follow takes what was received apart into frames.
func (j *joiner) follow(p []byte) error {
	for len(p) > 0 {
		if j.payload > 0 {
			n := min(j.payload, uint64(len(p)))
			p, j.payload = p[n:], j.payload-n
			continue
		}
		n := copy(j.head[j.got:], p)
		p, j.got = p[n:], j.got+n
		if j.got < muxHeaderLength {
			return nil
		}
		j.got = 0
		switch j.head[1] {
		case muxTypePing:
			return errPing
		case muxTypeData:
			j.payload = uint64(binary.BigEndian.Uint32(j.head[8:]))
		}
	}
	return nil
}

// partsWriter is a connection that writes several parts as one.
type partsWriter interface {
	WriteParts(parts ...[]byte) (int, error)
}

func (j *joiner) Write(p []byte) (int, error) {
	if len(j.held) == 0 && dataFollows(p) {
		j.held = append(j.held, p...)
		return len(p), nil
	}
	err := j.send(j.held, p)
	j.held = j.held[:0]
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (j *joiner) send(head, p []byte) (err error) {
	if w, ok := j.Conn.(partsWriter); ok {
		_, err = w.WriteParts(head, p)
		return err
	}
	if len(head) > 0 {
		j.held = append(head, p...)
		p = j.held
	}
	_, err = j.Conn.Write(p)
	return err
}

func dataFollows(p []byte) bool {
	return len(p) == muxHeaderLength && p[1] == muxTypeData && binary.BigEndian.Uint32(p[8:]) > 0
}

// abort wakes whoever reads from the stream and closes it. The close itself can wait for a stalled connection, so it
// does not hold up the caller; it ends with the session at the latest.
func abort(stream *yamux.Stream) {
	_ = stream.SetReadDeadline(time.Unix(1, 0))
	go stream.Close()
}

// drain reads what a peer sends that has nothing to say, and returns when it closed the stream or the session ended.
func drain(stream *yamux.Stream) { _, _ = io.Copy(io.Discard, stream) }
