package linktest

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/containervm/containervm/tether/link"
)

// Token is what a Host gives each machine. It does not ask for it: that is for tests of the real host's.
const Token = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// Host is the fake host of one tether: the guestinfo and log services that a guest reaches on CID 2.
type Host struct {
	t    testing.TB
	work sync.WaitGroup
	lost chan struct{} // closed at the end of the test

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change
	values  map[string]string
	sets    []link.Command
	records []link.Record
	logEnds int
	keepLog bool // see KeepLogOpen
	conns   []net.Conn
}

// NewHost returns a host whose guestinfo holds values. Its end is that of the test.
func NewHost(t testing.TB, values map[string]string) *Host {
	h := &Host{t: t, lost: make(chan struct{}), changed: make(chan struct{}), values: maps.Clone(values)}
	if h.values == nil {
		h.values = map[string]string{}
	}
	t.Cleanup(func() { close(h.lost); h.Lose(); h.work.Wait() })
	return h
}

// Dial is how the guest reaches a service; a service that the host does not have is refused.
func (h *Host) Dial(service link.Service, faults ...Fault) (net.Conn, error) {
	serve := h.guestinfo
	switch service {
	case link.ServiceGuestinfo:
	case link.ServiceLog:
		serve = h.log
	default:
		return nil, errors.New("connection refused: the host has no such service")
	}
	guest, host := SocketPair(h.t)
	for _, fault := range faults {
		host = fault(host)
	}
	h.mu.Lock()
	h.conns = append(h.conns, host)
	h.mu.Unlock()
	h.work.Go(func() { defer host.Close(); serve(host) })
	return guest, nil
}

// Lose ends all connections there are.
func (h *Host) Lose() {
	h.mu.Lock()
	conns := h.conns
	h.conns = nil
	h.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}

// Set changes what the guest reads.
func (h *Host) Set(key, value string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.values[key] = value
	h.wake()
}

// Get returns a value, set by either side.
func (h *Host) Get(key string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.values[key]
}

// Sets are the info-set commands of the guest so far, in order.
func (h *Host) Sets() []link.Command {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.sets)
}

// Records is the log so far, stamped on arrival.
func (h *Host) Records() []link.Record {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.records)
}

// KeepLogOpen makes this a host that breaks the contract: it takes the log and never ends a connection, so that a guest is never told
// that all is stored.
func (h *Host) KeepLogOpen() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.keepLog = true
}

// LogEnds is how often the guest has ended a log connection at a record border, as it does when all is flushed.
func (h *Host) LogEnds() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.logEnds
}

// Wait returns when what holds, which it asks after each change of guestinfo or log; the test fails when ctx ends first.
func (h *Host) Wait(ctx context.Context, what string, holds func() bool) {
	h.t.Helper()
	for {
		h.mu.Lock()
		changed := h.changed
		h.mu.Unlock()
		if holds() {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			h.t.Fatalf("%s never came: %v", what, ctx.Err())
		}
	}
}

func (h *Host) wake() {
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *Host) guestinfo(conn net.Conn) {
	for {
		text, err := link.ReadMessage(conn)
		if err != nil {
			return
		}
		if text == link.CommandToken+" "+Token {
			continue
		}
		if link.WriteMessage(conn, h.answer(text)) != nil {
			return
		}
	}
}

func (h *Host) answer(text string) string {
	c, err := link.ParseCommand(text)
	if err != nil {
		return link.ReplyError(err.Error())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch c.Name {
	case link.CommandInfoGet:
		if value, ok := h.values[c.Key]; ok {
			return link.ReplyOK(value)
		}
		return link.ReplyError("No value found")
	case link.CommandInfoSet:
		h.values[c.Key] = c.Value
		h.sets = append(h.sets, c)
		h.wake()
		return link.ReplyOK("")
	case link.CommandHello:
		if value, ok := h.values[c.Key]; ok {
			return link.ReplyOK(Token + " " + value)
		}
		return link.ReplyOK(Token)
	case link.CommandTime:
		return link.ReplyOK(strconv.FormatInt(time.Now().UnixNano(), 10))
	default:
		return link.ReplyError("Permission denied")
	}
}

// log takes records up to the guest's end of them. Its caller then ends the connection, which tells the guest that all is stored.
func (h *Host) log(conn net.Conn) {
	records := link.NewRecordReader(conn)
	for {
		r, err := records.Next()
		h.mu.Lock()
		if err == nil {
			h.records = append(h.records, link.Record{Stream: r.Stream, Time: time.Now(), Payload: slices.Clone(r.Payload)})
		} else if err == io.EOF {
			h.logEnds++
		}
		keep := h.keepLog
		h.wake()
		h.mu.Unlock()
		if err == nil {
			continue
		}
		if keep {
			<-h.lost // the guest ends its side alone
		}
		return
	}
}
