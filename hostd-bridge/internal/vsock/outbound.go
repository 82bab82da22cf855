package vsock

import (
	"fmt"
	"sync"
)

// maxBatchOut bounds the packets sent in one call.
const maxBatchOut = 256

// outbound is what a device needs to send to its guest. The device's mu guards all of it, and is held when its methods are
// called.
type outbound struct {
	ring    *ring // nil while stopped
	regions regions
	pending []packet
	space   sync.Cond            // pending became shorter, or the device stopped
	waiting map[*stream]struct{} // their writers wait for the guest's buffers

	// Of the batch in hand:
	headers []byte
	local   [][]byte
	spans   []span
}

// packet has no payload and waits for a buffer.
type packet struct {
	stream *stream // whose credit the header will tell; nil: an answer to what belongs to no connection
	header
}

// buffersAdded is called when the guest may have added buffers.
func (d *Device) buffersAdded() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flushLocked()
	d.wakeWritersLocked()
}

// wakeWritersLocked lets those who wait for buffers try again.
func (d *Device) wakeWritersLocked() {
	for s := range d.out.waiting {
		s.writable.Broadcast()
	}
	clear(d.out.waiting)
}

// postLocked queues a packet for the next flush.
func (d *Device) postLocked(p packet) { d.out.pending = append(d.out.pending, p) }

// flushLocked sends what is pending, as far as there are buffers.
func (d *Device) flushLocked() {
	for len(d.out.pending) > 0 && d.hasBuffersLocked() {
		n, err := d.sendPendingLocked()
		if err != nil {
			d.failLocked(err)
			return
		}
		d.out.pending = append(d.out.pending[:0], d.out.pending[n:]...)
	}
	if len(d.out.pending) < maxPending {
		d.out.space.Broadcast()
	}
}

// sendPendingLocked sends as many pending packets as there are buffers at hand, and returns how many.
func (d *Device) sendPendingLocked() (int, error) {
	o := &d.out
	o.begin()
	n := 0
	for n < len(o.pending) && o.more() {
		if _, err := d.putLocked(o.pending[n], nil); err != nil {
			return 0, err
		}
		n++
	}
	return n, o.finish()
}

// sendDataLocked sends as much of b as the guest's buffers hold, and returns how much.
func (d *Device) sendDataLocked(s *stream, b []byte) int {
	d.flushLocked()
	if len(d.out.pending) > 0 || !d.hasBuffersLocked() {
		return 0
	}
	n, err := d.sendBatchLocked(s, b)
	if err != nil {
		d.failLocked(err)
		return 0
	}
	return n
}

func (d *Device) sendBatchLocked(s *stream, b []byte) (int, error) {
	o := &d.out
	o.begin()
	sent := 0
	for sent < len(b) && o.more() {
		n, err := d.putLocked(packet{s, s.header(opData, 0)}, b[sent:])
		if err != nil {
			return 0, err
		}
		sent += n
	}
	return sent, o.finish()
}

// hasBuffersLocked looks for buffers of the guest. When there are none it has requested a notification.
func (d *Device) hasBuffersLocked() bool {
	r := d.out.ring
	if r == nil {
		return false
	}
	if r.ready() > 0 {
		return true
	}
	if err := r.refill(); err != nil {
		d.failLocked(err)
		return false
	}
	if r.ready() == 0 {
		return false
	}
	d.wakeWritersLocked() // the notification that they wait for may be suppressed now, and then never comes
	return true
}

// begin starts a batch.
func (o *outbound) begin() {
	if o.headers == nil {
		o.headers = make([]byte, 0, maxBatchOut*headerLen) // never grows: local points into it
		o.local = make([][]byte, 0, 2*maxBatchOut+3)
		o.spans = make([]span, 0, maxBatchOut+3)
	}
	o.headers, o.local, o.spans = o.headers[:0], o.local[:0], o.spans[:0]
}

// more reports whether the batch can take another packet.
func (o *outbound) more() bool { return o.ring.ready() > 0 && len(o.headers) < cap(o.headers) }

// finish writes the batch to the guest, in one call.
func (o *outbound) finish() error {
	if err := o.ring.publishAfter(o.local, o.spans); err != nil {
		return err
	}
	_, err := o.ring.signal()
	return err
}

// putLocked adds a packet to the batch, with as much of the payload as the guest's next buffer holds, and returns how much.
func (d *Device) putLocked(p packet, payload []byte) (int, error) {
	o := &d.out
	first := len(o.spans)
	c, spans, err := o.ring.pop(o.regions, o.spans, true)
	if err != nil {
		return 0, err
	}
	n := min(len(payload), c.bytes-headerLen, maxPayload)
	if n < 0 || (n == 0 && len(payload) > 0) {
		return 0, fmt.Errorf("%w: a buffer of %d bytes holds no packet", errBadRing, c.bytes)
	}
	p.srcCID, p.dstCID, p.kind, p.length = HostCID, d.cid, typeStream, uint32(n)
	if p.stream != nil {
		p.stream.tellCreditLocked(&p.header, n)
	}
	o.headers = o.headers[:len(o.headers)+headerLen]
	head := o.headers[len(o.headers)-headerLen:]
	p.put(head)
	o.local = append(o.local, head)
	if n > 0 {
		o.local = append(o.local, payload[:n])
	}
	o.spans = trim(spans, first, headerLen+n)
	o.ring.push(c.head, uint32(headerLen+n))
	return n, nil
}

// trim cuts the spans from index first on to a total of n bytes.
func trim(spans []span, first, n int) []span {
	for i := first; i < len(spans); i++ {
		if spans[i].len >= n {
			spans[i].len = n
			return spans[:i+1]
		}
		n -= spans[i].len
	}
	return spans
}
