package link

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
)

func muxFrame(kind byte, length uint32, payload string) []byte {
	frame := make([]byte, muxHeaderLength, muxHeaderLength+len(payload))
	frame[1] = kind
	binary.BigEndian.PutUint32(frame[8:], length)
	return append(frame, payload...)
}

// TestPing: a peer that pings without reading ends its session; it cannot make us hold a goroutine for each ping.
func TestPing(t *testing.T) {
	ours, peer := net.Pipe()
	defer peer.Close()
	session, err := yamux.Client(&joiner{Conn: ours}, muxConfig(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	before := runtime.NumGoroutine()
	ping := muxFrame(muxTypePing, 1, "")
	ping[3] = 1 // SYN: it asks for an answer
	_ = peer.SetWriteDeadline(time.Now().Add(10 * time.Second))
	for range 10_000 {
		if _, err := peer.Write(ping); err != nil { // closed by the other end
			break
		}
	}
	select {
	case <-session.CloseChan():
	case <-t.Context().Done():
	}
	if after := runtime.NumGoroutine(); after > before+2 {
		t.Errorf("%d goroutines, there were %d", after, before)
	}
}

// TestFollow: frames are told apart in whatever pieces they come, and payloads that look like pings are none.
func TestFollow(t *testing.T) {
	ping := muxFrame(muxTypePing, 0, "")
	var talk []byte
	talk = append(talk, muxFrame(0x1, 1<<20, "")...) // a window update has no payload
	talk = append(talk, muxFrame(muxTypeData, uint32(len(ping)), string(ping))...)
	talk = append(talk, muxFrame(0x3, 0, "")...)
	for size := 1; size <= len(talk); size++ {
		j := &joiner{}
		for at := 0; at < len(talk); at += size {
			if err := j.follow(talk[at:min(at+size, len(talk))]); err != nil {
				t.Fatalf("in pieces of %d: %v", size, err)
			}
		}
		if err := j.follow(ping); !errors.Is(err, errPing) {
			t.Errorf("in pieces of %d: a ping is not seen: %v", size, err)
		}
	}
}
