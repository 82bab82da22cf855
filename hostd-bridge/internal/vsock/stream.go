package vsock

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// closeTimeout is how long a closed connection waits for the guest's reset before it is forgotten; Linux's own
// (VSOCK_CLOSE_TIMEOUT).
const closeTimeout = 8 * time.Second

// stream is a connection of a Device.
type stream struct {
	dev *Device
	key connKey

	reading sync.Mutex // one reader at a time
	writing sync.Mutex // one writer at a time, so that what they write is not mixed

	// The device's mu guards the rest.
	readable, writable sync.Cond
	readBy, writeBy    deadline

	established bool
	gone        bool   // no longer in the device's table
	closed      bool   // by us, wholly
	shut        uint32 // what we will not do any more
	peerShut    uint32 // what the guest will not do any more
	err         error  // why it ended, beside the two
	lingering   *time.Timer

	in         buffer
	fwdCnt     uint32 // bytes taken out of in
	advertised uint32 // the fwdCnt that the guest knows
	sent       uint32 // bytes sent
	asked      bool   // for credit
	peerAlloc  uint32 // size of the guest's receive buffer
	peerFwdCnt uint32
}

var (
	_ Conn        = (*stream)(nil)
	_ io.WriterTo = (*stream)(nil)
)

// Read implements net.Conn.
func (s *stream) Read(p []byte) (int, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	s.dev.mu.Lock()
	defer s.dev.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	if err := s.awaitData(); err != nil {
		return 0, err
	}
	n := s.in.read(p)
	s.consumed(n)
	return n, nil
}

// WriteTo implements io.WriterTo: io.Copy needs no buffer of its own.
func (s *stream) WriteTo(w io.Writer) (total int64, err error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	for {
		b, err := s.front()
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err := w.Write(b)
		s.discard(n)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// front waits for data and returns its first piece, which stays as it is until it is discarded.
func (s *stream) front() ([]byte, error) {
	s.dev.mu.Lock()
	defer s.dev.mu.Unlock()
	if err := s.awaitData(); err != nil {
		return nil, err
	}
	return s.in.front(), nil
}

func (s *stream) discard(n int) {
	s.dev.mu.Lock()
	defer s.dev.mu.Unlock()
	if n = min(n, s.in.n); n > 0 { // a Close may have emptied it
		s.in.discard(n)
		s.consumed(n)
	}
}

// awaitData waits until there is something to read. It returns io.EOF when there never will be.
func (s *stream) awaitData() error {
	for {
		switch {
		case s.closed:
			return net.ErrClosed
		case s.readBy.passed:
			return os.ErrDeadlineExceeded
		case s.shut&shutReceive != 0:
			return io.EOF
		case s.in.n > 0:
			return nil
		case s.peerShut&shutSend != 0:
			return io.EOF
		case s.err != nil:
			return s.err
		}
		s.readable.Wait()
	}
}

// consumed counts n bytes as taken out of the receive buffer, and tells the guest when a good part is free again.
func (s *stream) consumed(n int) {
	s.fwdCnt += uint32(n)
	if s.gone || s.fwdCnt-s.advertised < bufAlloc/4 {
		return
	}
	s.advertised = s.fwdCnt
	s.send(opCreditUpdate, 0)
	s.dev.flush()
}

// Write implements net.Conn.
func (s *stream) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.dev.mu.Lock()
	defer s.dev.mu.Unlock()
	sent := 0
	for {
		if err := s.writeError(); err != nil {
			return sent, err
		}
		if sent == len(p) {
			return sent, nil
		}
		n := s.writeSome(p[sent:])
		if n == 0 && s.writeError() == nil { // sending may have found that the device is gone, and told everybody
			s.writable.Wait()
		}
		sent += n
	}
}

func (s *stream) writeError() error {
	switch {
	case s.closed:
		return net.ErrClosed
	case s.writeBy.passed:
		return os.ErrDeadlineExceeded
	case s.shut&shutSend != 0:
		return syscall.EPIPE
	case s.err != nil:
		return s.err
	case s.peerShut&shutReceive != 0:
		return syscall.EPIPE
	}
	return nil
}

// writeSome sends as much as credit and buffers allow. When it returns 0, writable is signalled once that may change.
func (s *stream) writeSome(p []byte) int {
	credit := int32(s.peerAlloc - (s.sent - s.peerFwdCnt))
	if credit <= 0 {
		if !s.asked {
			s.asked = true
			s.send(opCreditRequest, 0)
			s.dev.flush()
		}
		return 0
	}
	n := s.dev.sendData(s, p[:min(len(p), int(credit))])
	if n == 0 {
		s.dev.out.starved[s] = struct{}{}
	}
	return n
}

// header begins a packet of this connection.
func (s *stream) header(o op, flags uint32) header {
	return header{srcPort: s.key.local, dstPort: s.key.peer, op: o, flags: flags}
}

func (s *stream) send(o op, flags uint32) { s.dev.post(packet{s, s.header(o, flags)}) }

// tellCredit completes the header of a packet with n bytes that leaves now.
func (s *stream) tellCredit(h *header, n int) {
	h.bufAlloc, h.fwdCnt = bufAlloc, s.fwdCnt
	s.advertised = s.fwdCnt
	s.sent += uint32(n)
}

// credit takes in what the guest says of its receive buffer.
func (s *stream) credit(h header) {
	s.peerAlloc, s.peerFwdCnt = h.bufAlloc, h.fwdCnt
	s.asked = false
	s.writable.Broadcast()
}

// handle takes a packet of the guest.
func (s *stream) handle(h header, payload []byte) {
	s.credit(h)
	switch {
	case h.op == opReset && !s.established:
		s.end(syscall.ECONNREFUSED)
	case h.op == opReset:
		s.end(syscall.ECONNRESET)
	case h.op == opResponse && !s.established:
		s.established = true
	case !s.established:
		s.abort(syscall.EPROTO)
	case h.op == opData:
		s.take(payload)
	case h.op == opShutdown:
		s.peerShutdown(h.flags & shutBoth)
	case h.op == opCreditRequest:
		s.send(opCreditUpdate, 0)
	case h.op != opCreditUpdate:
		s.abort(syscall.EPROTO)
	}
}

// take puts received data into the buffer.
func (s *stream) take(payload []byte) {
	if len(payload) > bufAlloc-s.in.n || s.peerShut&shutSend != 0 {
		s.abort(syscall.EPROTO) // more than its credit, or after its end
		return
	}
	if s.closed || s.shut&shutReceive != 0 {
		s.consumed(len(payload))
		return
	}
	if len(payload) > 0 {
		s.in.write(payload)
		s.readable.Broadcast()
	}
}

// peerShutdown notes what the guest will not do any more; when nothing is left the connection is over, and the reset
// lets the guest forget it.
func (s *stream) peerShutdown(flags uint32) {
	s.peerShut |= flags
	s.readable.Broadcast()
	if s.peerShut == shutBoth {
		s.abort(syscall.EPIPE)
	}
}

// abort resets the connection.
func (s *stream) abort(err error) {
	if s.gone {
		return
	}
	if s.end(err) {
		s.dev.post(packet{header: s.header(opReset, 0)})
	}
}

// end takes the connection out of the table, without a word to the guest. It reports whether the guest knows of it.
func (s *stream) end(err error) (known bool) {
	if s.gone {
		return false
	}
	s.gone, s.err = true, err
	delete(s.dev.conns, s.key)
	delete(s.dev.out.starved, s)
	if s.lingering != nil {
		s.lingering.Stop()
	}
	s.readable.Broadcast()
	s.writable.Broadcast()
	return !s.dropPending()
}

// dropPending takes back what the guest need not see any more, so that connections that come and go while it gives no
// buffers do not pile up. It reports whether the request was among it.
func (s *stream) dropPending() (request bool) {
	kept := s.dev.out.pending[:0]
	for _, p := range s.dev.out.pending {
		if p.stream != s {
			kept = append(kept, p)
		} else if p.op == opRequest {
			request = true
		}
	}
	s.dev.out.pending = kept
	return request
}

// CloseWrite tells the guest that no more data will come: it reads end of file.
func (s *stream) CloseWrite() error { return s.shutdown(shutSend) }

// CloseRead gives up what the guest may still send: its writes fail.
func (s *stream) CloseRead() error { return s.shutdown(shutReceive) }

func (s *stream) shutdown(flags uint32) error {
	s.dev.mu.Lock()
	defer s.dev.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.shutNow(flags)
	return nil
}

func (s *stream) shutNow(flags uint32) {
	if s.shut|flags == s.shut {
		return
	}
	s.shut |= flags
	if !s.gone {
		s.send(opShutdown, s.shut)
		s.dev.flush()
	}
	s.readable.Broadcast()
	s.writable.Broadcast()
}

// Close implements net.Conn. The guest still gets all that was written.
func (s *stream) Close() error {
	s.dev.mu.Lock()
	defer s.dev.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.closed = true
	s.shutNow(shutBoth)
	s.in = buffer{}
	s.readBy.set(time.Time{}, nil)
	s.writeBy.set(time.Time{}, nil)
	s.readable.Broadcast()
	s.writable.Broadcast()
	if !s.gone {
		s.lingering = time.AfterFunc(closeTimeout, s.forget)
	}
	return nil
}

// forget ends a closed connection whose guest does not answer.
func (s *stream) forget() {
	s.dev.mu.Lock()
	defer s.dev.mu.Unlock()
	s.abort(syscall.ETIMEDOUT)
	s.dev.flush()
}

// LocalAddr implements net.Conn.
func (s *stream) LocalAddr() net.Addr { return Addr{HostCID, s.key.local} }

// RemoteAddr implements net.Conn.
func (s *stream) RemoteAddr() net.Addr {
	s.dev.mu.Lock()
	defer s.dev.mu.Unlock()
	return Addr{uint32(s.dev.cid), s.key.peer}
}

// SetDeadline implements net.Conn.
func (s *stream) SetDeadline(t time.Time) error {
	if err := s.SetReadDeadline(t); err != nil {
		return err
	}
	return s.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (s *stream) SetReadDeadline(t time.Time) error { return s.setDeadline(&s.readBy, &s.readable, t) }

// SetWriteDeadline implements net.Conn.
func (s *stream) SetWriteDeadline(t time.Time) error {
	return s.setDeadline(&s.writeBy, &s.writable, t)
}

func (s *stream) setDeadline(d *deadline, wake *sync.Cond, t time.Time) error {
	s.dev.mu.Lock()
	defer s.dev.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	d.set(t, wake)
	return nil
}

// deadline says whether a moment has passed. The lock of the condition that it wakes guards it.
type deadline struct {
	passed bool
	timer  *time.Timer
}

func (d *deadline) set(t time.Time, wake *sync.Cond) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.passed = !t.IsZero() && !t.After(time.Now())
	if d.passed {
		wake.Broadcast()
		return
	}
	if t.IsZero() {
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(time.Until(t), func() {
		wake.L.Lock()
		defer wake.L.Unlock()
		if d.timer == timer { // else it was replaced
			d.passed = true
			wake.Broadcast()
		}
	})
	d.timer = timer
}
