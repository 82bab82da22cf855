package vsock

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Split virtqueue (virtio 1.2, 2.7).
const (
	maxQueue = 1024 // most entries that we accept; QEMU's vhost-vsock has 128

	descSize = 16
	usedSize = 8

	descNext     = 1
	descWrite    = 2
	descIndirect = 4

	availNoInterrupt = 1
	usedNoNotify     = 1
)

var errBadRing = errors.New("the guest's virtqueue is malformed")

// ringAddrs are the addresses of a ring's parts in the memory.
type ringAddrs struct{ desc, avail, used uint64 }

// ring is the device's side of a virtqueue. It has no lock: its owner's guards it.
//
// Of the available ring and the descriptor table it holds a copy taken at the last refresh, index first, so that every
// entry up to the copied index is whole. Indices are read and written as aligned 8-byte words, which the kernel copies in
// one piece, and x86 keeps the order of stores: a lone 2-byte index copied by process_vm_readv could be torn.
type ring struct {
	mem   memory
	num   uint32
	addrs ringAddrs
	// interrupt tells the guest of used buffers.
	interrupt func()

	next      uint16 // the next available entry to take
	seen      uint16 // the available index of the copy
	used      uint16 // the used index
	published uint16 // the used index that the guest has been told
	flags     uint16 // of the used ring: usedNoNotify or 0

	// apart are the parts of all the device's rings: no buffer lies over one. The device would feed itself with what it writes.
	apart []span

	word  [8]byte // the first word of the available ring: flags, index, two entries
	avail []byte
	table []byte
	done  []byte // our copy of the used ring's entries
	out   [8]byte
	local [][]byte
	spans []span
}

// newRing makes a ring; how many entries it has used so far it reads back from the guest's memory.
func newRing(mem memory, q queue) (*ring, error) {
	num, a := q.num, q.addrs
	if num == 0 || num > maxQueue || num&(num-1) != 0 {
		return nil, fmt.Errorf("cannot use a virtqueue of %d entries: not a power of 2 up to %d", num, maxQueue)
	}
	if a.desc%descSize != 0 || a.avail%8 != 0 || a.used%8 != 0 {
		return nil, fmt.Errorf("cannot use a virtqueue at %#x: it is not aligned to 8 bytes", a)
	}
	r := &ring{mem: mem, num: num, addrs: a, interrupt: q.interrupt, next: q.base, seen: q.base,
		avail: make([]byte, 2*num), table: make([]byte, descSize*num), done: make([]byte, usedSize*num)}
	var head [4]byte
	err := mem.readv([][]byte{head[:], r.done}, []span{{a.used, 4}, {a.used + 4, len(r.done)}})
	if err != nil {
		return nil, fmt.Errorf("cannot read the used ring: %w", err)
	}
	r.flags, r.used = binary.LittleEndian.Uint16(head[:]), binary.LittleEndian.Uint16(head[2:])
	r.published = r.used
	return r, nil
}

// parts are the pieces of the memory that the ring is made of (virtio 1.2, 2.7: sizes).
func (r *ring) parts() []span {
	n := int(r.num)
	return []span{{r.addrs.desc, descSize * n}, {r.addrs.avail, 6 + 2*n}, {r.addrs.used, 6 + usedSize*n}}
}

// keepApart refuses rings of which a part lies over another, and has them refuse buffers that do.
func keepApart(rings ...*ring) error {
	var all []span
	for _, r := range rings {
		for _, part := range r.parts() {
			if overlaps(all, part) {
				return fmt.Errorf("%w: its part at %#x lies over another", errBadRing, part.addr)
			}
			all = append(all, part)
		}
	}
	for _, r := range rings {
		r.apart = all
	}
	return nil
}

// overlaps reports whether a piece has a byte in common with one of others. Both end below 1<<64: they lie in memory.
func overlaps(others []span, piece span) bool {
	for _, o := range others {
		if piece.addr < o.addr+uint64(o.len) && o.addr < piece.addr+uint64(piece.len) {
			return true
		}
	}
	return false
}

// refresh copies what the guest has made available. It fails when the guest's index is out of range.
func (r *ring) refresh() error {
	a := r.addrs.avail
	r.local = append(r.local[:0], r.word[:], r.avail, r.table)
	r.spans = append(r.spans[:0], span{a, 8}, span{a + 4, len(r.avail)}, span{r.addrs.desc, len(r.table)})
	if err := r.mem.readv(r.local, r.spans); err != nil {
		return fmt.Errorf("cannot read the available ring: %w", err)
	}
	idx := binary.LittleEndian.Uint16(r.word[2:])
	if n := idx - r.next; uint32(n) > r.num || n < r.seen-r.next {
		return fmt.Errorf("%w: available index %d after %d", errBadRing, idx, r.seen)
	}
	r.seen = idx
	return nil
}

// ready is how many entries can be popped before the next refresh.
func (r *ring) ready() int { return int(r.seen - r.next) }

// chain is a popped entry: buffers of the guest, translated.
type chain struct {
	head  uint16
	bytes int
}

// pop takes the next entry and appends its buffers to dst. All of them must be writable by the device or none, as
// writable says. ready must not be 0. The caller gives the chain back by push, in the order of pop.
func (r *ring) pop(mem regions, dst []span, writable bool) (chain, []span, error) {
	head := binary.LittleEndian.Uint16(r.avail[2*(uint32(r.next)%r.num):])
	c := chain{head: head}
	at := uint32(head)
	for range r.num { // a longer chain is a loop
		if at >= r.num {
			return c, dst, fmt.Errorf("%w: descriptor %d of %d", errBadRing, at, r.num)
		}
		d := r.table[descSize*at : descSize*at+descSize]
		length, flags := binary.LittleEndian.Uint32(d[8:]), binary.LittleEndian.Uint16(d[12:])
		if flags&descIndirect != 0 || (flags&descWrite != 0) != writable {
			return c, dst, fmt.Errorf("%w: flags %#x of descriptor %d", errBadRing, flags, at)
		}
		if length > maxPayload+headerLen || c.bytes+int(length) > maxPayload+headerLen {
			return c, dst, fmt.Errorf("%w: buffer of %d bytes", errBadRing, length)
		}
		var err error
		first := len(dst)
		if dst, err = mem.translate(dst, binary.LittleEndian.Uint64(d), length); err != nil {
			return c, dst, fmt.Errorf("%w: %w", errBadRing, err)
		}
		for _, buffer := range dst[first:] {
			if overlaps(r.apart, buffer) {
				return c, dst, fmt.Errorf("%w: descriptor %d lies over a ring", errBadRing, at)
			}
		}
		c.bytes += int(length)
		if flags&descNext == 0 {
			r.next++
			return c, dst, nil
		}
		at = uint32(binary.LittleEndian.Uint16(d[14:]))
	}
	return c, dst, fmt.Errorf("%w: endless descriptor chain", errBadRing)
}

// push gives a chain back, into which the device wrote n bytes. The guest learns of it by publish.
func (r *ring) push(head uint16, n uint32) {
	e := r.done[usedSize*(uint32(r.used)%r.num):]
	binary.LittleEndian.PutUint32(e, uint32(head))
	binary.LittleEndian.PutUint32(e[4:], n)
	r.used++
}

// publish tells the guest of what was pushed.
func (r *ring) publish() error { return r.publishAfter(r.local[:0], r.spans[:0]) }

// publishAfter puts local at remote and then tells the guest of what was pushed: in one call, the index last.
func (r *ring) publishAfter(local [][]byte, remote []span) error {
	local, remote = r.pushed(local, remote)
	binary.LittleEndian.PutUint16(r.out[0:], r.flags)
	binary.LittleEndian.PutUint16(r.out[2:], r.used)
	copy(r.out[4:], r.done[:4]) // the first entry's id shares the word with the index
	local = append(local, r.out[:])
	remote = append(remote, span{r.addrs.used, 8})
	if err := r.mem.writev(local, remote); err != nil {
		return fmt.Errorf("cannot write the used ring: %w", err)
	}
	r.published = r.used
	return nil
}

// pushed appends the used entries that are not published yet: one piece, or two when they wrap.
func (r *ring) pushed(local [][]byte, remote []span) ([][]byte, []span) {
	for at := r.published; at != r.used; {
		i := uint32(at) % r.num
		n := min(uint32(r.used-at), r.num-i)
		piece := r.done[usedSize*i : usedSize*(i+n)]
		local = append(local, piece)
		remote = append(remote, span{r.addrs.used + 4 + uint64(usedSize*i), len(piece)})
		at += uint16(n)
	}
	return local, remote
}

// signal interrupts the guest for published buffers unless it has suppressed that, and reports whether it has added others
// meanwhile.
func (r *ring) signal() (more bool, err error) {
	more, err = r.peek()
	if err == nil && binary.LittleEndian.Uint16(r.word[:])&availNoInterrupt == 0 {
		r.interrupt()
	}
	return more, err
}

// peek reads the guest's flags and index anew, and reports whether there is more than the last refresh saw.
func (r *ring) peek() (more bool, err error) {
	r.local = append(r.local[:0], r.word[:])
	r.spans = append(r.spans[:0], span{r.addrs.avail, 8})
	if err := r.mem.readv(r.local, r.spans); err != nil {
		return false, fmt.Errorf("cannot read the available index: %w", err)
	}
	return binary.LittleEndian.Uint16(r.word[2:]) != r.seen, nil
}

// suppressNotifications lets the guest add buffers without a notification, from the next publish on (virtio 1.2, 2.7.10).
func (r *ring) suppressNotifications() { r.flags = usedNoNotify }

// requestNotifications has the guest notify when it adds buffers, and reports whether it has added some already.
func (r *ring) requestNotifications() (more bool, err error) {
	if r.flags != 0 {
		r.flags = 0
		if err := r.publish(); err != nil {
			return false, err
		}
	}
	return r.peek()
}

// refill refreshes. When that yields something notifications are suppressed, else they are requested.
func (r *ring) refill() error {
	err := r.refresh()
	if err == nil && r.ready() == 0 {
		var more bool
		if more, err = r.requestNotifications(); err == nil && more {
			err = r.refresh()
		}
	}
	if r.ready() > 0 {
		r.suppressNotifications()
	}
	return err
}
