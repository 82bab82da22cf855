package vsock

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
)

// script is a guest that speaks by hand.
type script struct {
	*driver
	t *testing.T
}

func newScript(t *testing.T) script {
	d := newDriver(t, NewDevice(false, silent()))
	d.boot(t)
	d.offerAll()
	return script{d, t}
}

// says sends a packet from guest port 7.
func (s script) says(o op, port uint32, payload string) {
	s.send(encode(header{srcCID: 3, dstCID: HostCID, srcPort: 7, dstPort: port, kind: typeStream, op: o, bufAlloc: 1 << 20}, payload))
}

// hears expects the next packet from the host.
func (s script) hears(o op) header {
	s.t.Helper()
	p, ok := s.receive()
	if !ok {
		s.t.Fatal("the device ended")
	}
	h := parseHeader(p)
	if h.op != o || h.dstPort != 7 || h.srcCID != HostCID || h.dstCID != 3 {
		s.t.Fatalf("heard %+v, not operation %d", h, o)
	}
	return h
}

func (s script) accepted(port uint32) Conn {
	s.t.Helper()
	l, err := s.dev.Listen(port)
	if err != nil {
		s.t.Fatal(err)
	}
	s.says(opRequest, port, "")
	if h := s.hears(opResponse); h.bufAlloc != bufAlloc {
		s.t.Fatalf("credit %d", h.bufAlloc)
	}
	c, err := l.Accept()
	if err != nil {
		s.t.Fatal(err)
	}
	return c.(Conn)
}

func TestGuestProtocol(t *testing.T) {
	s := newScript(t)
	s.says(opRequest, 50, "")
	s.hears(opReset) // nobody listens
	s.says(opData, 50, "hi")
	s.hears(opReset) // no connection

	c := s.accepted(51)
	s.says(opCreditRequest, 51, "")
	s.hears(opCreditUpdate)
	s.says(opData, 51, "hello")
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Fatalf("%q, %v", b, err)
	}
	// From another CID, or with a length beyond its end, a packet is dropped.
	s.send(encode(header{srcCID: 4, dstCID: HostCID, srcPort: 7, dstPort: 51, kind: typeStream, op: opReset}, ""))
	long := encode(header{srcCID: 3, dstCID: HostCID, srcPort: 7, dstPort: 51, kind: typeStream, op: opData}, "x")
	le.PutUint32(long[24:], 1<<31)
	s.send(long)
	s.send(encode(header{srcCID: 3, dstCID: HostCID, srcPort: 7, dstPort: 51, kind: typeStream, op: opShutdown, flags: shutSend}, ""))
	if rest, err := io.ReadAll(c); err != nil || len(rest) != 0 {
		t.Fatalf("%q, %v", rest, err)
	}
	s.send(encode(header{srcCID: 3, dstCID: HostCID, srcPort: 7, dstPort: 51, kind: typeStream, op: opShutdown, flags: shutBoth}, ""))
	s.hears(opReset) // both ends are through
}

func TestAbort(t *testing.T) {
	s := newScript(t)
	c := s.accepted(51)
	s.says(opData, 51, "unread")
	if err := c.(interface{ Abort() error }).Abort(); err != nil {
		t.Fatal(err)
	}
	s.hears(opReset)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if err := c.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("close: %v", err)
	}
	s.says(opData, 51, "late")
	s.hears(opReset) // the connection is unknown
}

func TestGuestResetsConnection(t *testing.T) {
	s := newScript(t)
	c := s.accepted(51)
	s.says(opReset, 51, "")
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
	if _, err := c.Write(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("write: %v", err)
	}
}

// The guest's memory goes with QEMU. A write must then fail, and not wait for buffers.
func TestWriteWithoutGuestMemory(t *testing.T) {
	s := newScript(t)
	c := s.accepted(51)
	s.arena.mu.Lock()
	s.arena.b = nil
	s.arena.mu.Unlock()
	if _, err := c.Write([]byte("hello")); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("write: %v", err)
	}
}

func TestGuestBreaksProtocol(t *testing.T) {
	t.Run("more than its credit", func(t *testing.T) {
		s := newScript(t)
		c := s.accepted(51)
		for range bufAlloc/testPayload + 1 {
			s.says(opData, 51, string(make([]byte, testPayload)))
		}
		s.hears(opReset)
		if n, err := io.Copy(io.Discard, c); n != bufAlloc || !errors.Is(err, syscall.EPROTO) {
			t.Errorf("read %d, %v", n, err)
		}
	})
	t.Run("second request", func(t *testing.T) {
		s := newScript(t)
		s.accepted(51)
		s.says(opRequest, 51, "")
		s.hears(opReset)
	})
	t.Run("unknown type", func(t *testing.T) {
		s := newScript(t)
		s.send(encode(header{srcCID: 3, dstCID: HostCID, srcPort: 7, dstPort: 51, kind: 9, op: opRequest}, ""))
		s.hears(opReset)
	})
	t.Run("data after its end", func(t *testing.T) {
		s := newScript(t)
		s.accepted(51)
		s.send(encode(header{srcCID: 3, dstCID: HostCID, srcPort: 7, dstPort: 51, kind: typeStream, op: opShutdown, flags: shutSend}, ""))
		s.says(opData, 51, "x")
		s.hears(opReset)
	})
}

// A guest that asks and offers no buffers for the answers must not fill the host's memory, nor keep it from stopping.
func TestAnswersAreBounded(t *testing.T) {
	d := newMuteDriver(t, NewDevice(false, silent()))
	d.boot(t)
	ask := encode(header{srcCID: 3, dstCID: HostCID, srcPort: 7, dstPort: 51, kind: typeStream, op: opRequest}, "")
	for range maxPending {
		d.send(ask)
		d.dev.receive()
	}
	if n := len(d.dev.out.pending); n != maxPending {
		t.Fatalf("%d answers pend", n)
	}
	d.send(ask)
	d.done.Go(d.dev.receive) // waits for space
	d.dev.stop()
	d.done.Wait()
	if n := len(d.dev.out.pending); n != maxPending {
		t.Fatalf("%d answers pend", n)
	}
}
