package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Versions of the link that this build speaks.
const (
	MinVersion uint16 = 1
	MaxVersion uint16 = 1
)

// prefaceLength is the length of what each side sends first: magic, lowest and highest version, big-endian.
const prefaceLength = 8

// prefaceMagic is "cVM" and a byte that no text protocol sends first.
const prefaceMagic = "cVM\x00"

// Versions is an inclusive range of link versions.
type Versions struct{ Min, Max uint16 }

func (v Versions) String() string {
	if v.Min == v.Max {
		return fmt.Sprintf("version %d", v.Min)
	}
	return fmt.Sprintf("versions %d to %d", v.Min, v.Max)
}

func ourVersions() Versions { return Versions{MinVersion, MaxVersion} }

// VersionError says that two peers have no link version in common.
type VersionError struct{ Ours, Peer Versions }

func (e *VersionError) Error() string {
	older := "the peer"
	if e.Ours.Max < e.Peer.Min {
		older = "this program"
	}
	return fmt.Sprintf("link %s spoken here, %s by the peer: upgrade %s", e.Ours, e.Peer, older)
}

func appendPreface(dst []byte, v Versions) []byte {
	dst = append(dst, prefaceMagic...)
	dst = binary.BigEndian.AppendUint16(dst, v.Min)
	return binary.BigEndian.AppendUint16(dst, v.Max)
}

func parsePreface(b [prefaceLength]byte) (Versions, error) {
	if string(b[:4]) != prefaceMagic {
		return Versions{}, fmt.Errorf("not a link peer: it began with %q", b[:4])
	}
	v := Versions{binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])}
	if v.Min == 0 || v.Min > v.Max {
		return Versions{}, fmt.Errorf("link peer sent the impossible versions %d to %d", v.Min, v.Max)
	}
	return v, nil
}

// negotiate returns the highest version that both ranges hold.
func negotiate(ours, peer Versions) (uint16, error) {
	version := min(ours.Max, peer.Max)
	if version < max(ours.Min, peer.Min) {
		return 0, &VersionError{Ours: ours, Peer: peer}
	}
	return version, nil
}

// handshake exchanges prefaces on conn until ctx ends. Both sides send at once, so it costs one trip, not two.
func handshake(ctx context.Context, conn net.Conn, ours Versions) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(appendPreface(nil, ours))
		sent <- err
	}()
	var theirs [prefaceLength]byte
	_, err := io.ReadFull(conn, theirs[:])
	if err != nil {
		_ = conn.SetDeadline(time.Unix(1, 0)) // the peer that does not send may not read either
	}
	err = errors.Join(err, <-sent)
	if !stop() {
		return fmt.Errorf("cannot open link session: no answer from the peer: %w", context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("cannot open link session: %w", err)
	}
	peer, err := parsePreface(theirs)
	if err != nil {
		return fmt.Errorf("cannot open link session: %w", err)
	}
	if _, err := negotiate(ours, peer); err != nil {
		return fmt.Errorf("cannot open link session: %w", err)
	}
	return nil
}
