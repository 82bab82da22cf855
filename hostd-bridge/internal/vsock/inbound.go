package vsock

import "sync"

// Bounds of a batch: bytes, and packets. A packet of the largest size always fits.
const (
	batchBytes   = 256 << 10
	batchPackets = 256
)

// inbound is what a device needs to read what its guest sends. Its mu guards all of it; receiveBatch and gather want it held.
type inbound struct {
	mu      sync.Mutex
	ring    *ring // nil while stopped
	regions regions
	data    []byte
	chains  []chain
	spans   []span
}

// receive takes in all that the guest has sent. One goroutine does so at a time.
func (d *Device) receive() {
	d.in.mu.Lock()
	defer d.in.mu.Unlock()
	for d.roomForAnswers() {
		more, err := d.receiveBatch()
		if err != nil {
			d.in.ring = nil
			d.mu.Lock()
			d.failLocked(err)
			d.mu.Unlock()
		}
		if !more || err != nil {
			return
		}
	}
}

// roomForAnswers waits until few enough answers are pending. It reports whether the device still runs.
func (d *Device) roomForAnswers() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.out.ring != nil && len(d.out.pending) >= maxPending {
		d.out.space.Wait()
	}
	return d.out.ring != nil && d.in.ring != nil
}

// receiveBatch reads some packets. It reports whether there may be more; if not, the guest will notify.
func (d *Device) receiveBatch() (more bool, err error) {
	in, r := &d.in, d.in.ring
	if r.ready() == 0 {
		if err := r.refresh(); err != nil {
			return false, err
		}
	}
	if r.ready() == 0 {
		return r.requestNotifications()
	}
	if err := in.gather(); err != nil {
		return false, err
	}
	d.deliver()
	if err := r.publish(); err != nil {
		return false, err
	}
	if more, err = r.signal(); err == nil && (more || r.ready() > 0) {
		r.suppressNotifications()
		return true, nil
	}
	if err != nil || r.flags == 0 {
		return false, err
	}
	return r.requestNotifications()
}

// gather pops chains and reads their bytes into data, in one call.
func (in *inbound) gather() error {
	in.chains, in.spans = in.chains[:0], in.spans[:0]
	if in.data == nil {
		in.data = make([]byte, batchBytes)
	}
	total := 0
	for in.ring.ready() > 0 && len(in.chains) < batchPackets && total+headerLen+maxPayload <= len(in.data) {
		c, spans, err := in.ring.pop(in.regions, in.spans, false)
		if err != nil {
			return err
		}
		in.spans, in.chains = spans, append(in.chains, c)
		total += c.bytes
	}
	if total == 0 {
		return nil
	}
	return in.ring.mem.readv([][]byte{in.data[:total]}, in.spans)
}

// deliver hands the gathered packets to their connections and gives the buffers back.
func (d *Device) deliver() {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := 0
	for _, c := range d.in.chains {
		d.handleLocked(d.in.data[at : at+c.bytes])
		at += c.bytes
		d.in.ring.push(c.head, 0)
	}
	d.flushLocked()
}

// handleLocked takes one packet. What cannot be a packet for us is dropped, as the kernel's vhost does: after a fork the
// guest may still send from its parent's CID.
func (d *Device) handleLocked(b []byte) {
	if len(b) < headerLen {
		return
	}
	h, payload := parseHeader(b), b[headerLen:]
	if h.srcCID != d.cid || h.dstCID != HostCID || uint64(h.length) > uint64(len(payload)) {
		return
	}
	if !d.dialable {
		d.dialable = true
		d.mayDial.Broadcast()
	}
	k := connKey{local: h.dstPort, peer: h.srcPort}
	s := d.conns[k]
	switch {
	case h.kind != typeStream && h.op != opReset:
		d.refuseLocked(k)
	case s != nil:
		s.handleLocked(h, payload[:h.length])
	case h.op == opRequest:
		d.acceptLocked(k, h)
	case h.op != opReset:
		d.refuseLocked(k)
	}
}
