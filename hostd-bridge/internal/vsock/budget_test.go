package vsock

import (
	"errors"
	"testing"
)

// TestRingsApart: a guest that lays a ring over another, or a buffer over a ring, would have the device feed itself.
func TestRingsApart(t *testing.T) {
	overlay := map[string]func(out, in *ringAddrs){
		"used over avail of the same":  func(out, _ *ringAddrs) { out.used = out.avail },
		"used over the end of avail":   func(out, _ *ringAddrs) { out.used = out.avail + 32 },
		"used over descriptors":        func(out, _ *ringAddrs) { out.used = out.desc },
		"used over the other's avail":  func(out, in *ringAddrs) { out.used = in.avail },
		"both rings in the same place": func(out, in *ringAddrs) { *out = *in },
	}
	for what, lay := range overlay {
		d := newMuteDriver(t, NewDevice(false, silent()))
		lay(&d.rings[queueOut].addrs, &d.rings[queueIn].addrs)
		if err := d.start([2]uint16{}); !errors.Is(err, errBadRing) {
			t.Errorf("%s: %v, want %v", what, err, errBadRing)
		}
	}
	for what, target := range map[string]func(d *driver) uint64{
		"available ring that the device reads": func(d *driver) uint64 { return d.rings[queueIn].addrs.avail },
		"its own available ring, by one byte":  func(d *driver) uint64 { return d.rings[queueOut].addrs.avail - headerLen + 1 },
		"descriptors":                          func(d *driver) uint64 { return d.rings[queueOut].addrs.desc },
	} {
		dev := NewDevice(false, silent())
		d := newMuteDriver(t, dev)
		if err := d.start([2]uint16{}); err != nil {
			t.Fatal(err)
		}
		d.offerAll()
		at := target(d)
		le.PutUint64(d.b[d.rings[queueOut].addrs.desc:], at) // the first buffer that the device writes to
		before := append([]byte(nil), d.b[d.rings[queueIn].addrs.avail:d.rings[queueIn].addrs.avail+64]...)
		d.send(encode(header{srcCID: 3, dstCID: HostCID, srcPort: 7, dstPort: 51, kind: typeStream, op: opRequest}, ""))
		dev.receive() // the refusal would be written there
		if dev.out.ring != nil {
			t.Errorf("%s: the device goes on with a buffer over it", what)
		}
		if after := d.b[d.rings[queueIn].addrs.avail+8 : d.rings[queueIn].addrs.avail+64]; string(after) != string(before[8:]) {
			t.Errorf("%s: the device wrote into a ring", what)
		}
	}
}

// TestAcceptedBudget: one port of the host takes maxAccepted connections of a guest, whatever the guest does with them, and others again
// once the host has closed some.
func TestAcceptedBudget(t *testing.T) {
	dev := NewDevice(false, silent())
	l, err := dev.Listen(51)
	if err != nil {
		t.Fatal(err)
	}
	dev.mu.Lock()
	dev.cid = 3
	say := func(port uint32, o op) {
		dev.handleLocked(encode(header{srcCID: 3, dstCID: HostCID, srcPort: port, dstPort: 51, kind: typeStream, op: o}, ""))
	}
	for port := range uint32(400) {
		say(port, opRequest)
		if port%2 == 1 {
			say(port, opReset) // the guest's end is gone; the service's is not
		}
	}
	held := len(dev.listeners[51].queue)
	dev.mu.Unlock()
	if held != maxAccepted {
		t.Fatalf("%d connections are held, want %d", held, maxAccepted)
	}
	for range maxAccepted {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.(*stream).Abort(); err != nil {
			t.Fatal(err)
		}
	}
	dev.mu.Lock()
	defer dev.mu.Unlock()
	if l := dev.listeners[51]; l.held != 0 {
		t.Errorf("%d connections are counted after all were closed", l.held)
	}
	say(1000, opRequest)
	if dev.conns[connKey{51, 1000}] == nil {
		t.Error("there is no room for another connection")
	}
}
