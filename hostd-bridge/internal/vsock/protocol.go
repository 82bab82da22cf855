package vsock

import "syscall"

// header begins a packet of this connection.
func (s *stream) header(o op, flags uint32) header {
	return header{srcPort: s.key.local, dstPort: s.key.peer, op: o, flags: flags}
}

func (s *stream) sendLocked(o op, flags uint32) { s.dev.postLocked(packet{s, s.header(o, flags)}) }

// tellCreditLocked completes the header of a packet with n bytes that leaves now.
func (s *stream) tellCreditLocked(h *header, n int) {
	h.bufAlloc, h.fwdCnt = bufAlloc, s.fwdCnt
	s.advertised = s.fwdCnt
	s.sent += uint32(n)
}

// creditLocked takes in what the guest says of its receive buffer.
func (s *stream) creditLocked(h header) {
	s.peerAlloc, s.peerFwdCnt = h.bufAlloc, h.fwdCnt
	s.creditAsked = false
	s.writable.Broadcast()
}

// handleLocked takes a packet of the guest.
func (s *stream) handleLocked(h header, payload []byte) {
	s.creditLocked(h)
	switch {
	case h.op == opReset && s.state == stateRequested:
		s.removeLocked(syscall.ECONNREFUSED)
	case h.op == opReset:
		s.removeLocked(syscall.ECONNRESET)
	case h.op == opResponse && s.state == stateRequested:
		s.state = s.state.after(eventAnswered)
	case s.state == stateRequested:
		s.abortLocked(syscall.EPROTO)
	case h.op == opData:
		s.takeLocked(payload)
	case h.op == opShutdown:
		s.peerShutdownLocked(h.flags & shutBoth)
	case h.op == opCreditRequest:
		s.sendLocked(opCreditUpdate, 0)
	case h.op != opCreditUpdate:
		s.abortLocked(syscall.EPROTO)
	}
}

// takeLocked puts received data into the buffer.
func (s *stream) takeLocked(payload []byte) {
	if len(payload) > bufAlloc-s.in.n || s.peerShut&shutSend != 0 {
		s.abortLocked(syscall.EPROTO) // more than its credit, or after its end
		return
	}
	if s.shut&shutReceive != 0 { // Close has ended both directions
		s.consumedLocked(len(payload))
		return
	}
	if len(payload) > 0 {
		s.in.write(payload)
		s.readable.Broadcast()
	}
}

// peerShutdownLocked takes in which directions the guest has ended. After both the connection is over, and the reset lets the
// guest forget it.
func (s *stream) peerShutdownLocked(flags uint32) {
	s.peerShut |= flags
	s.readable.Broadcast()
	if s.peerShut == shutBoth {
		s.abortLocked(syscall.EPIPE)
	}
}

// abortLocked removes the connection and resets it at the guest.
func (s *stream) abortLocked(err error) {
	if s.removeLocked(err) {
		s.dev.postLocked(packet{header: s.header(opReset, 0)})
	}
}

// removeLocked takes the connection out of the table and sends nothing. It reports whether the guest still has the connection
// in its own table.
func (s *stream) removeLocked(err error) (known bool) {
	if !s.state.inTable() {
		return false
	}
	s.changeLocked(eventRemoved)
	s.err = err
	delete(s.dev.conns, s.key)
	delete(s.dev.out.waiting, s)
	if s.linger != nil {
		s.linger.Stop()
	}
	s.readable.Broadcast()
	s.writable.Broadcast()
	return !s.dropPendingLocked()
}

// dropPendingLocked removes the connection's packets that wait for buffers: a guest that gives no buffers must not make
// the packets of connections that came and went pile up. It reports whether the request was among them.
func (s *stream) dropPendingLocked() (request bool) {
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
