package vsock

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"testing"
)

// arena is a guest's memory: guest-physical address 0 lies at arenaBase.
type arena struct {
	mu sync.Mutex
	b  []byte
}

const arenaBase = 0x7f0000000000

func (a *arena) readv(local [][]byte, remote []span) error {
	return a.transfer(local, remote, func(l, r []byte) { copy(l, r) })
}

func (a *arena) writev(local [][]byte, remote []span) error {
	return a.transfer(local, remote, func(l, r []byte) { copy(r, l) })
}

func (a *arena) transfer(local [][]byte, remote []span, move func(l, r []byte)) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var buf []byte
	for _, s := range remote {
		at := s.addr - arenaBase
		if s.len < 0 || at > uint64(len(a.b)) || uint64(s.len) > uint64(len(a.b))-at {
			return errors.New("outside of the arena")
		}
		for r := a.b[at : at+uint64(s.len)]; len(r) > 0; {
			for len(buf) == 0 {
				if len(local) == 0 {
					return errors.New("local and remote differ in length")
				}
				buf, local = local[0], local[1:]
			}
			n := min(len(buf), len(r))
			move(buf[:n], r[:n])
			buf, r = buf[n:], r[n:]
		}
	}
	return nil
}

// driver plays a guest's driver: it owns the rings' other side. Its methods are for one goroutine each way.
type driver struct {
	*arena
	dev    *Device
	rings  [2]driverRing
	closed chan struct{}
	done   sync.WaitGroup
}

// driverRing is the driver's side of a virtqueue. Each buffer is a chain of two descriptors: header and payload.
type driverRing struct {
	addrs     ringAddrs // within the arena
	buffers   uint64
	slots     int
	free      []int
	avail     uint16
	used      uint16
	interrupt chan struct{}
	kick      chan struct{}
}

const (
	testQueue   = 16 // descriptors
	testPayload = 2048
	slotBytes   = headerLen + testPayload
)

// newDriver makes a guest with empty rings for dev, whose kicks reach the device.
func newDriver(t testing.TB, dev *Device) *driver {
	d := newMuteDriver(t, dev)
	d.serveKicks()
	return d
}

// newMuteDriver makes a guest with empty rings for dev; the test calls dev's receive and buffersAdded itself.
func newMuteDriver(t testing.TB, dev *Device) *driver {
	d := &driver{arena: &arena{b: make([]byte, 256<<10)}, dev: dev, closed: make(chan struct{})}
	at := uint64(4096)
	for i := range d.rings {
		r := &d.rings[i]
		r.addrs = ringAddrs{desc: at, avail: at + 16*testQueue, used: at + 2048}
		r.buffers = at + 4096
		r.slots = testQueue / 2
		r.interrupt, r.kick = make(chan struct{}, 1), make(chan struct{}, 1)
		for s := range r.slots {
			r.free = append(r.free, s)
		}
		at = r.buffers + uint64(r.slots*slotBytes+4096)&^4095
	}
	t.Cleanup(d.close)
	return d
}

// boot starts the device on fresh rings.
func (d *driver) boot(t testing.TB) {
	t.Helper()
	if err := d.start([2]uint16{}); err != nil {
		t.Fatal(err)
	}
}

// start starts the device as vhost does.
func (d *driver) start(bases [2]uint16) error {
	if err := d.dev.start(3, d.arena, regions{{0, uint64(len(d.b)), arenaBase}}, d.queues(bases)); err != nil {
		return err
	}
	for i := range d.rings {
		poke(d.rings[i].kick)
	}
	return nil
}

func (d *driver) queues(bases [2]uint16) (qs [2]queue) {
	for i := range d.rings {
		r := &d.rings[i]
		a := ringAddrs{r.addrs.desc + arenaBase, r.addrs.avail + arenaBase, r.addrs.used + arenaBase}
		qs[i] = queue{num: testQueue, addrs: a, base: bases[i], interrupt: func() { poke(r.interrupt) }}
	}
	return qs
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// serveKicks passes kicks on to the device, as eventfds would.
func (d *driver) serveKicks() {
	for i, work := range []func(){d.dev.buffersAdded, d.dev.receive} {
		d.done.Go(func() {
			for {
				select {
				case <-d.rings[i].kick:
					work()
				case <-d.closed:
					return
				}
			}
		})
	}
}

func (d *driver) close() {
	d.dev.Close()
	close(d.closed)
	d.done.Wait()
}

var le = binary.LittleEndian

// offer makes slot s available with n bytes of payload. The caller holds the arena's lock.
func (d *driver) offer(r *driverRing, s, n int, flags uint16) {
	desc := d.b[r.addrs.desc+uint64(32*s):]
	at := r.buffers + uint64(s*slotBytes)
	le.PutUint64(desc, at)
	le.PutUint32(desc[8:], headerLen)
	le.PutUint16(desc[12:], flags)
	if n > 0 {
		le.PutUint16(desc[12:], flags|descNext)
		le.PutUint16(desc[14:], uint16(2*s+1))
		le.PutUint64(desc[16:], at+headerLen)
		le.PutUint32(desc[24:], uint32(n))
		le.PutUint16(desc[28:], flags)
	}
	le.PutUint16(d.b[r.addrs.avail+4+2*uint64(r.avail%testQueue):], uint16(2*s))
	r.avail++
	le.PutUint16(d.b[r.addrs.avail+2:], r.avail)
}

// kickIfWanted tells the device of offers unless it asked not to be told.
func (d *driver) kickIfWanted(r *driverRing) {
	d.mu.Lock()
	wanted := le.Uint16(d.b[r.addrs.used:])&usedNoNotify == 0
	d.mu.Unlock()
	if wanted {
		poke(r.kick)
	}
}

// offerAll offers all free buffers of the receive ring.
func (d *driver) offerAll() {
	r := &d.rings[queueOut]
	d.mu.Lock()
	for _, s := range r.free {
		d.offer(r, s, testPayload, descWrite)
	}
	r.free = nil
	d.mu.Unlock()
	d.kickIfWanted(r)
}

// take returns the next used slot and its length. It blocks until there is one; ok is false when the driver was closed.
func (d *driver) take(r *driverRing) (slot, n int, ok bool) {
	for {
		d.mu.Lock()
		if le.Uint16(d.b[r.addrs.used+2:]) != r.used {
			e := d.b[r.addrs.used+4+8*uint64(r.used%testQueue):]
			slot, n = int(le.Uint32(e)/2), int(le.Uint32(e[4:]))
			r.used++
			le.PutUint16(d.b[r.addrs.avail:], availNoInterrupt)
			d.mu.Unlock()
			return slot, n, true
		}
		masked := le.Uint16(d.b[r.addrs.avail:]) != 0
		le.PutUint16(d.b[r.addrs.avail:], 0)
		d.mu.Unlock()
		if masked {
			continue // look again after asking for interrupts
		}
		select {
		case <-r.interrupt:
		case <-d.closed:
			return 0, 0, false
		}
	}
}

// receive returns a packet from the host and offers its buffer again.
func (d *driver) receive() ([]byte, bool) {
	r := &d.rings[queueOut]
	s, n, ok := d.take(r)
	if !ok {
		return nil, false
	}
	d.mu.Lock()
	at := r.buffers + uint64(s*slotBytes)
	p := append([]byte(nil), d.b[at:at+uint64(n)]...)
	d.offer(r, s, testPayload, descWrite)
	d.mu.Unlock()
	d.kickIfWanted(r)
	return p, true
}

// send gives a packet to the host; it blocks while all buffers are in use.
func (d *driver) send(p []byte) bool {
	r := &d.rings[queueIn]
	if len(r.free) == 0 {
		s, _, ok := d.take(r)
		if !ok {
			return false
		}
		r.free = append(r.free, s)
	}
	s := r.free[len(r.free)-1]
	r.free = r.free[:len(r.free)-1]
	d.mu.Lock()
	copy(d.b[r.buffers+uint64(s*slotBytes):], p)
	d.offer(r, s, len(p)-headerLen, 0)
	d.mu.Unlock()
	d.kickIfWanted(r)
	return true
}

func encode(h header, payload string) []byte {
	b := make([]byte, headerLen, headerLen+len(payload))
	h.length = uint32(len(payload))
	h.put(b)
	return append(b, payload...)
}

func silent() *slog.Logger { return slog.New(slog.DiscardHandler) }

// nullModem joins two hosts: what one sends to its guest is what the other's guest sends.
func nullModem(t testing.TB) (a, b *Device, da, db *driver) {
	a, b = NewDevice(false, silent()), NewDevice(false, silent())
	a.accept, b.accept = MaxConns, MaxConns // as guests do
	da, db = newDriver(t, a), newDriver(t, b)
	for _, d := range []*driver{da, db} {
		d.boot(t)
		d.offerAll()
	}
	cross := func(from, to *driver) {
		for {
			p, ok := from.receive()
			if !ok {
				return
			}
			h := parseHeader(p)
			h.srcCID, h.dstCID = h.dstCID, h.srcCID
			h.put(p)
			if !to.send(p) {
				return
			}
		}
	}
	var wires sync.WaitGroup
	wires.Go(func() { cross(da, db) })
	wires.Go(func() { cross(db, da) })
	return a, b, da, db
}
