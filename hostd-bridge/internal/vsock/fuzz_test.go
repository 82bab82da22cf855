package vsock

import (
	"errors"
	"testing"
)

// FuzzRings lets a guest's rings and memory be anything: no panic, no endless loop, nothing outside of guest memory.
func FuzzRings(f *testing.F) {
	good := newMuteDriver(f, NewDevice(false, silent()))
	good.offerAll()
	good.send(encode(header{srcCID: 3, dstCID: HostCID, srcPort: 7, dstPort: 51, kind: typeStream, op: opRequest}, ""))
	f.Add(good.b[:64<<10], uint16(0), uint16(0), uint64(0))
	f.Add(good.b[:8<<10], uint16(1), uint16(0xffff), uint64(0))
	f.Add([]byte{}, uint16(0), uint16(0), uint64(0))
	f.Add(good.b[:64<<10], uint16(0), uint16(0), uint64(0x0102030405060708))
	f.Fuzz(func(t *testing.T, guest []byte, outBase, inBase uint16, lay uint64) {
		dev := NewDevice(false, silent())
		defer dev.Close()
		d := newMuteDriver(t, dev)
		copy(d.b, guest)
		if lay != 0 { // the guest chooses where its rings lie
			for i := range d.rings {
				for _, at := range []*uint64{&d.rings[i].addrs.desc, &d.rings[i].addrs.avail, &d.rings[i].addrs.used} {
					*at, lay = 64*(lay&0x3ff), lay>>10
				}
			}
		}
		l, err := dev.Listen(51)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		err = dev.start(3, d.arena, regions{{0, uint64(len(d.b)), arenaBase}}, d.queues([2]uint16{outBase, inBase}))
		if err != nil && !errors.Is(err, errBadRing) {
			t.Fatal(err)
		}
		dev.buffersAdded()
		dev.receive()
		if n := len(dev.conns); n > MaxConns {
			t.Errorf("%d connections", n)
		}
	})
}

// FuzzPackets lets a guest say anything in whole packets, 48 bytes of the input each: header and 4 bytes of payload.
func FuzzPackets(f *testing.F) {
	var talk []byte
	for _, o := range []op{opRequest, opData, opCreditRequest, opShutdown, opReset} {
		talk = append(talk, encode(header{srcCID: 3, dstCID: HostCID, srcPort: 7, dstPort: 51, kind: typeStream, op: o, flags: 3, bufAlloc: 9}, "abcd")...)
	}
	f.Add(talk)
	f.Fuzz(func(t *testing.T, talk []byte) {
		dev := NewDevice(false, silent())
		defer dev.Close()
		l, err := dev.Listen(51)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		dev.mu.Lock()
		defer dev.mu.Unlock()
		dev.cid = 3
		for ; len(talk) >= 48; talk = talk[48:] {
			dev.handleLocked(talk[:48])
			for _, s := range dev.conns {
				if s.in.n > bufAlloc || !s.state.inTable() {
					t.Fatalf("%d bytes buffered, state %d", s.in.n, s.state)
				}
			}
		}
	})
}

// FuzzHeader: what is decoded encodes to the same bytes.
func FuzzHeader(f *testing.F) {
	f.Add(encode(header{srcCID: 1, dstCID: 2, srcPort: 3, dstPort: 4, kind: 6, op: 7, flags: 8, bufAlloc: 9, fwdCnt: 10}, ""))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < headerLen {
			return
		}
		h := parseHeader(b)
		var again [headerLen]byte
		h.put(again[:])
		if string(again[:]) != string(b[:headerLen]) {
			t.Errorf("%x became %x", b[:headerLen], again)
		}
	})
}
