// Package framestest has a network without addresses for tests: what a card sends all others get.
package framestest

import (
	"bytes"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containervm/containervm/hostd-bridge/internal/frames"
	"github.com/containervm/containervm/hostd-bridge/internal/frames/unixsocket"
)

// Hub listens where a network's switch does.
type Hub struct {
	Socket string // what vm.NIC.Frames names

	t        testing.TB
	listener net.Listener
	serving  sync.WaitGroup

	mu      sync.Mutex
	changed chan struct{} // closed at each change, and made anew
	cards   map[*net.UnixConn]frames.Hello
	joined  int // connections in all
	heard   map[string][][]byte
	ended   bool
}

// New starts a hub in a directory of its own.
func New(t testing.TB) *Hub {
	t.Helper()
	h := &Hub{t: t, Socket: filepath.Join(t.TempDir(), frames.Socket)}
	h.Start()
	t.Cleanup(h.Stop)
	return h
}

// Start has a hub that was stopped be there again; what it has heard is forgotten.
func (h *Hub) Start() {
	h.t.Helper()
	h.changed, h.cards, h.heard, h.ended = make(chan struct{}), map[*net.UnixConn]frames.Hello{}, map[string][][]byte{}, false
	listener, err := unixsocket.Listen(h.Socket)
	if err != nil {
		h.t.Fatal(err)
	}
	h.listener = listener
	h.serving.Go(func() {
		for {
			c, err := h.listener.Accept()
			if err != nil {
				return
			}
			h.serving.Go(func() { h.serve(c.(*net.UnixConn)) })
		}
	})
}

// Stop closes all that the hub has open, as its end would.
func (h *Hub) Stop() {
	h.listener.Close()
	h.mu.Lock()
	h.ended = true
	for c := range h.cards {
		c.Close()
	}
	h.mu.Unlock()
	h.serving.Wait()
}

// change is called with mu held.
func (h *Hub) change() {
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *Hub) serve(c *net.UnixConn) {
	defer c.Close()
	hello, _, err := frames.ReadHello(c)
	h.mu.Lock()
	if err != nil || h.ended {
		h.mu.Unlock()
		return
	}
	h.cards[c] = hello
	h.joined++
	h.change()
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.cards, c)
		h.change()
		h.mu.Unlock()
	}()
	for r := frames.NewReader(c); ; {
		batch, err := r.Batch()
		if err != nil {
			return
		}
		h.mu.Lock()
		for f := range frames.All(batch) {
			h.heard[hello.MAC] = append(h.heard[hello.MAC], bytes.Clone(f))
		}
		h.change()
		h.mu.Unlock()
		h.pass(batch, c)
	}
}

// pass writes to all cards but one.
func (h *Hub) pass(batch []byte, but *net.UnixConn) {
	h.mu.Lock()
	cards := slices.Collect(maps.Keys(h.cards))
	h.mu.Unlock()
	for _, c := range cards {
		if c != but {
			_, _ = c.Write(batch) // it may have left
		}
	}
}

// Send sends a frame to all cards.
func (h *Hub) Send(frame []byte) { h.pass(frames.Append(nil, frame), nil) }

// Cards are those that are joined.
func (h *Hub) Cards() (cards []frames.Hello) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.cards {
		cards = append(cards, c)
	}
	return cards
}

// Heard is what the card that introduced itself with an address has sent.
func (h *Hub) Heard(mac string) [][]byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.heard[mac])
}

// patience bounds a failure.
const patience = time.Minute

// Await waits until ok is true of the hub.
func (h *Hub) Await(what string, ok func() bool) {
	h.t.Helper()
	for over := time.After(patience); ; {
		h.mu.Lock()
		changed := h.changed
		h.mu.Unlock()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-over:
			h.t.Fatalf("within %v it has not happened that %s", patience, what)
		}
	}
}

// AwaitCard waits until a card with an address is joined.
func (h *Hub) AwaitCard(mac string) {
	h.t.Helper()
	h.Await(mac+" joins", func() bool {
		return slices.ContainsFunc(h.Cards(), func(c frames.Hello) bool { return c.MAC == mac })
	})
}

// AwaitNone waits until no card is joined.
func (h *Hub) AwaitNone() {
	h.t.Helper()
	h.Await("all cards leave", func() bool { return len(h.Cards()) == 0 })
}
