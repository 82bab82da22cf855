package core

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/containervm/containervm/hostd-bridge/internal/frames"
	"github.com/containervm/containervm/hostd-bridge/internal/netswitch"
)

// card reads frames of a raw connection.
type wire struct {
	testing.TB
	net.Conn
	*frames.Reader
	waiting [][]byte
}

func (b *bench) wire(n byte, change ...func(*netswitch.Endpoint)) *wire {
	b.Helper()
	e := endpoint(n)
	for _, c := range change {
		c(&e)
	}
	b.config.Endpoints = append(b.config.Endpoints, e)
	b.apply()
	c := b.raw(e)
	c.SetDeadline(time.Now().Add(patience))
	return &wire{TB: b, Conn: c, Reader: frames.NewReader(c)}
}

func (w *wire) next() []byte {
	w.Helper()
	for len(w.waiting) == 0 {
		batch, err := w.Batch()
		if err != nil {
			w.Fatal(err)
		}
		for f := range frames.All(batch) {
			w.waiting = append(w.waiting, bytes.Clone(f))
		}
	}
	f := w.waiting[0]
	w.waiting = w.waiting[1:]
	return f
}

func (w *wire) send(all ...[]byte) {
	w.Helper()
	var b []byte
	for _, f := range all {
		b = frames.Append(b, f)
	}
	say(w, w.Conn, string(b))
}

func macOf(n byte) frames.Address { return frames.Address{2, 0x42, 172, 17, 0, n} }

// ethernet makes a frame.
func ethernet(to, from frames.Address, kind uint16, payload ...byte) []byte {
	f := append(append(append([]byte(nil), to[:]...), from[:]...), byte(kind>>8), byte(kind))
	return append(f, payload...)
}

// arpPacket makes what the sender says of an address, or asks for.
func arpPacket(op byte, mac frames.Address, sender, target netip.Addr) []byte {
	p := append([]byte{0, 1, 8, 0, 6, 4, 0, op}, mac[:]...)
	p = append(append(p, sender.AsSlice()...), 0, 0, 0, 0, 0, 0)
	return append(p, target.AsSlice()...)
}

const experimental = 0x88b5 // IEEE 802, for local use

// TestFramesGoWhereTheyBelong: to the card with the address, to all but the sender, or nowhere; nothing that is forged.
func TestFramesGoWhereTheyBelong(t *testing.T) {
	b := newBench(t)
	one, two, three := b.wire(2), b.wire(3), b.wire(4)
	to3, all := ethernet(macOf(3), macOf(2), experimental, 1), ethernet(frames.Broadcast, macOf(2), experimental, 2)
	one.send(
		ethernet(macOf(3), macOf(9), experimental, 0),                                                                 // forged
		ethernet(macOf(3), macOf(4), experimental, 0),                                                                 // another's
		ethernet(macOf(3), gatewayMAC, experimental, 0),                                                               // the gateway's
		ethernet(macOf(99), macOf(2), experimental, 0),                                                                // to nobody
		ethernet(macOf(2), macOf(2), experimental, 0),                                                                 // to itself
		ethernet(macOf(3), macOf(2), etherVLAN, 0, 5, 8, 0),                                                           // of a VLAN
		ethernet(frames.Broadcast, macOf(2), etherARP, arpPacket(2, macOf(2), ip("172.17.0.3"), ip("172.17.0.2"))...), // another's address
		ethernet(frames.Broadcast, macOf(2), etherARP, arpPacket(2, macOf(2), gateway4, gateway4)...),
		ethernet(frames.Broadcast, macOf(2), etherARP, 1),
		to3, all,
	)
	for _, want := range [][]byte{to3, all} {
		if got := two.next(); !bytes.Equal(got, want) {
			t.Errorf("two got %x, want %x", got, want)
		}
	}
	if got := three.next(); !bytes.Equal(got, all) {
		t.Errorf("three got %x", got)
	}
	back := ethernet(macOf(2), macOf(3), experimental, 3)
	two.send(back)
	if got := one.next(); !bytes.Equal(got, back) {
		t.Errorf("one got %x: its own, or what was forged", got)
	}
	if s := b.stats().Endpoints["vm-2"]; s.Forged != 7 || s.Unknown != 2 || s.SentFrames != 11 || s.ReceivedFrames != 1 {
		t.Errorf("stats are %+v", s)
	}
}

// TestNeighbourAdvertisementsAreOwn: IPv6's ARP.
func TestNeighbourAdvertisementsAreOwn(t *testing.T) {
	b := newBench(t)
	one, two := b.wire(2), b.wire(3)
	advertise := func(target netip.Addr) []byte {
		p := append([]byte{0x60, 0, 0, 0, 0, 24, protoICMP6, 255}, append(ip("fe80::2").AsSlice(), ip("ff02::1").AsSlice()...)...)
		return ethernet(frames.Address{0x33, 0x33, 0, 0, 0, 1}, macOf(2), etherIPv6, append(append(p, icmpv6NA, 0, 0, 0, 0, 0, 0, 0), target.AsSlice()...)...)
	}
	own := advertise(ip("fd00:17::2"))
	one.send(advertise(gateway6), advertise(ip("fd00:17::3")), own)
	if got := two.next(); !bytes.Equal(got, own) {
		t.Errorf("two got %x", got)
	}
	if s := b.stats().Endpoints["vm-2"]; s.Forged != 2 {
		t.Errorf("stats are %+v", s)
	}
}

func TestGuestsReachEachOtherAndTheGateway(t *testing.T) {
	b := newBench(t)
	one, two := b.add(2), b.add(3)
	two.listen(80, echo)
	for _, to := range []string{"172.17.0.3:80", "[fd00:17::3]:80"} {
		c := one.mustDial(to)
		say(t, c, "hi")
		hear(t, c, "hi")
		c.Close()
	}
	if dialed := b.wasDialed(); dialed != nil {
		t.Errorf("the switch has dialled %v", dialed)
	}
}

// TestStrangersAreClosed: who is not told of, or says another VM, or nothing.
func TestStrangersAreClosed(t *testing.T) {
	b := newBench(t)
	b.wire(2)
	for _, h := range []frames.Hello{{VM: "vm-9", MAC: macOf(2).String()}, {VM: "vm-2", MAC: macOf(9).String()}, {VM: "vm-2"}, {VM: "vm-2", MAC: frames.Broadcast.String()}} {
		c, err := frames.Dial(t.Context(), b.dir, h)
		if err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(patience))
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%+v: %v", h, err)
		}
		c.Close()
	}
	if !b.stats().Endpoints["vm-2"].Connected {
		t.Error("the one that is told of is closed too")
	}
}

// TestNewerConnectionReplaces: a supervisor that comes back is not kept out by what it left.
func TestNewerConnectionReplaces(t *testing.T) {
	b := newBench(t)
	old, other := b.wire(2), b.wire(3)
	c := b.raw(endpoint(2))
	if _, err := old.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the old connection: %v", err)
	}
	f := ethernet(macOf(2), macOf(3), experimental, 1)
	other.send(f)
	c.SetReadDeadline(time.Now().Add(patience))
	hear(t, c, string(frames.Append(nil, f)))
	// And with its card the connection goes.
	b.config.Endpoints = b.config.Endpoints[1:]
	b.apply()
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the connection of a card that left: %v", err)
	}
}

// TestFlood: a card that does not read loses frames, and holds up neither those who send to it nor itself.
func TestFlood(t *testing.T) {
	b := newBench(t)
	one, deaf, three := b.wire(2), b.wire(3), b.wire(4)
	flood := bytes.Repeat(frames.Append(frames.Append(nil, ethernet(macOf(3), macOf(2), experimental, make([]byte, 1500)...)), ethernet(frames.Broadcast, macOf(2), experimental, make([]byte, 1500)...)), 500)
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			f := three.next()
			if len(f) == frames.HeaderLen+1 {
				return
			}
		}
	})
	for range 20 {
		say(t, one, string(flood))
	}
	b.eventually("the switch has taken all", func() bool { return b.stats().Endpoints["vm-2"].SentFrames == 20_000 })
	one.send(ethernet(macOf(4), macOf(2), experimental, 1))
	reading.Wait()
	s := b.stats().Endpoints["vm-3"]
	if s.Dropped == 0 || s.Dropped+s.ReceivedFrames != 20_000 {
		t.Errorf("stats are %+v", s)
	}
	deaf.send(ethernet(macOf(4), macOf(3), experimental, 7))
	for {
		if f := three.next(); f[len(f)-1] == 7 {
			break
		}
	}
}

// TestGarbageFrames: what makes no sense is lost, and what stands behind it is not.
func TestGarbageFrames(t *testing.T) {
	b := newBench(t)
	one, two := b.wire(2), b.add(3)
	two.listen(80, echo)
	random := rand.New(rand.NewPCG(1, 2))
	kinds := []uint16{etherARP, etherIPv4, etherIPv6, 0, 0xffff}
	for i := range 3000 {
		f := make([]byte, random.IntN(200))
		for j := range f {
			f[j] = byte(random.Uint32())
		}
		to := []frames.Address{gatewayMAC, macOf(3), frames.Broadcast, {0x33, 0x33}}[i%4]
		kind := kinds[random.IntN(len(kinds))]
		if i%3 > 0 && len(f) > 60 { // nearly good
			f[0] = map[uint16]byte{etherIPv4: 0x45, etherIPv6: 0x60}[kind]
			binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
			f[6], f[9] = []byte{protoICMP6, protoTCP, protoUDP, protoFragment}[random.IntN(4)], []byte{protoICMP, protoTCP, protoUDP}[random.IntN(3)]
			if kind == etherIPv6 {
				binary.BigEndian.PutUint16(f[4:], uint16(len(f)-40))
				copy(f[8:], ip("fd00:17::2").AsSlice())
			} else {
				copy(f[12:], ip("172.17.0.2").AsSlice())
			}
		}
		one.send(ethernet(to, macOf(2), kind, f...))
	}
	b.eventually("the switch has taken all", func() bool { return b.stats().Endpoints["vm-2"].SentFrames == 3000 })
	c := two.mustDial(fmt.Sprintf("198.51.100.7:%d", serveOutside(t, "127.0.0.1", echo)))
	say(t, c, "hi")
	hear(t, c, "hi")
	say(t, one, "\x00\x00\x00\x00") // no frame
	for {                           // what it was sent, then the end
		if _, err := one.Batch(); err != nil {
			break
		}
	}
	b.eventually("its connection is closed", func() bool { return !b.stats().Endpoints["vm-2"].Connected })
}

func TestThousandConnections(t *testing.T) {
	b := newBench(t)
	g, other := b.add(2), b.add(3)
	port := serveOutside(t, "127.0.0.1", echo)
	to := fmt.Sprintf("198.51.100.7:%d", port)
	var all sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	errs := make(chan error, 1000)
	for range 1000 {
		all.Go(func() {
			c, err := g.dial(to)
			if err != nil {
				errs <- err
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			c.SetDeadline(time.Now().Add(patience))
			if _, err := c.Write([]byte("hello")); err != nil {
				errs <- err
				return
			}
			if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
				errs <- err
			}
		})
	}
	all.Wait()
	close(errs)
	failed := 0
	for err := range errs {
		if failed++; failed < 4 {
			t.Error(err)
		}
	}
	t.Logf("%d of 1000 failed; %d MB in use for %d sessions", failed, memoryInUse()>>20, b.stats().Gateway.Sessions)
	say(t, other.mustDial(to), "x") // beside them
	for _, c := range conns {
		c.Close()
	}
	b.eventually("they have ended", func() bool { return b.stats().Endpoints["vm-2"].Sessions == 0 })
}

// TestSessionsAreBounded: an endpoint that has all it may have is refused more, and others are not.
func TestSessionsAreBounded(t *testing.T) {
	b := newBench(t)
	g, other := b.add(2), b.add(3)
	port := serveOutside(t, "127.0.0.1", echo)
	to := fmt.Sprintf("198.51.100.7:%d", port)
	m := b.table.Load().cards[macOf(2)].member
	m.sessions.Add(maxSessions)
	if _, err := g.dial(to); !isRefused(err) {
		t.Errorf("a session too many: %v", err)
	}
	other.mustDial(to)
	m.sessions.Add(-maxSessions)
	g.mustDial(to)
	m.dialing.Add(maxDialing)
	free := make(chan struct{})
	go func() { // its TCP asks again
		defer close(free)
		b.eventually("a peer too many to wait for", func() bool { return m.refused.Load() == 2 })
		m.dialing.Add(-maxDialing)
	}()
	g.mustDial(to)
	<-free
}
