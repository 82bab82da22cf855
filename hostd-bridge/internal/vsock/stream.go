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

// stream is a connection of a Device. Its methods that end in Locked want the device's mu; no other lock is taken under that.
type stream struct {
	dev *Device
	key connKey

	reading sync.Mutex // one reader at a time
	writing sync.Mutex // one writer at a time, so that what they write is not mixed

	// The device's mu guards the rest.
	readable, writable sync.Cond
	readBy, writeBy    deadline

	state    streamState
	shut     uint32      // directions that we have ended: shutReceive, shutSend
	peerShut uint32      // directions that the guest has ended
	err      error       // in stateRefused, stateEnded and stateClosed: why the connection left the table
	linger   *time.Timer // in stateLingering
	accepted *listener   // that counts it among its connections, until stateClosed; nil: we have dialled it

	in          buffer
	fwdCnt      uint32 // bytes taken out of in
	advertised  uint32 // the fwdCnt that the guest knows
	sent        uint32 // bytes sent
	creditAsked bool   // a credit request is on its way
	peerAlloc   uint32 // size of the guest's receive buffer
	peerFwdCnt  uint32
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
	if err := s.awaitDataLocked(); err != nil {
		return 0, err
	}
	n := s.in.read(p)
	s.consumedLocked(n)
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

// front waits for data and returns its first piece, which does not change until discard.
func (s *stream) front() ([]byte, error) {
	s.dev.mu.Lock()
	defer s.dev.mu.Unlock()
	if err := s.awaitDataLocked(); err != nil {
		return nil, err
	}
	return s.in.front(), nil
}

func (s *stream) discard(n int) {
	s.dev.mu.Lock()
	defer s.dev.mu.Unlock()
	if n = min(n, s.in.n); n > 0 { // a Close may have emptied it
		s.in.discard(n)
		s.consumedLocked(n)
	}
}

// awaitDataLocked waits until there is something to read. It returns io.EOF when no more will come.
func (s *stream) awaitDataLocked() error {
	for {
		switch {
		case s.state.closedByUs():
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

// consumedLocked counts n bytes as taken out of the receive buffer, and tells the guest when a good part is free again.
func (s *stream) consumedLocked(n int) {
	s.fwdCnt += uint32(n)
	if !s.state.inTable() || s.fwdCnt-s.advertised < bufAlloc/4 {
		return
	}
	s.advertised = s.fwdCnt
	s.sendLocked(opCreditUpdate, 0)
	s.dev.flushLocked()
}

// Write implements net.Conn.
func (s *stream) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.dev.mu.Lock()
	defer s.dev.mu.Unlock()
	sent := 0
	for {
		if err := s.writeErrorLocked(); err != nil {
			return sent, err
		}
		if sent == len(p) {
			return sent, nil
		}
		n := s.writeSomeLocked(p[sent:])
		if n == 0 && s.writeErrorLocked() == nil { // the send may have failed the device, and then nothing wakes us
			s.writable.Wait()
		}
		sent += n
	}
}

// writeErrorLocked says why nothing can be written any more.
func (s *stream) writeErrorLocked() error {
	switch {
	case s.state.closedByUs():
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

// writeSomeLocked sends as much as credit and buffers allow. When it returns 0, writable is signalled once that may change.
func (s *stream) writeSomeLocked(p []byte) int {
	credit := int32(s.peerAlloc - (s.sent - s.peerFwdCnt))
	if credit <= 0 {
		if !s.creditAsked {
			s.creditAsked = true
			s.sendLocked(opCreditRequest, 0)
			s.dev.flushLocked()
		}
		return 0
	}
	n := s.dev.sendDataLocked(s, p[:min(len(p), int(credit))])
	if n == 0 {
		s.dev.out.waiting[s] = struct{}{}
	}
	return n
}

// CloseWrite tells the guest that no more data will come: it reads end of file.
func (s *stream) CloseWrite() error { return s.shutdown(shutSend) }

// CloseRead gives up what the guest may still send: its writes fail.
func (s *stream) CloseRead() error { return s.shutdown(shutReceive) }

func (s *stream) shutdown(flags uint32) error {
	s.dev.mu.Lock()
	defer s.dev.mu.Unlock()
	if s.state.closedByUs() {
		return net.ErrClosed
	}
	s.shutNowLocked(flags)
	return nil
}

// shutNowLocked ends directions of the connection and tells the guest.
func (s *stream) shutNowLocked(flags uint32) {
	if s.shut|flags == s.shut {
		return
	}
	s.shut |= flags
	if s.state.inTable() {
		s.sendLocked(opShutdown, s.shut)
		s.dev.flushLocked()
	}
	s.readable.Broadcast()
	s.writable.Broadcast()
}

// Close implements net.Conn. The guest still gets all that was written.
func (s *stream) Close() error {
	s.dev.mu.Lock()
	defer s.dev.mu.Unlock()
	if s.state.closedByUs() {
		return net.ErrClosed
	}
	s.shutNowLocked(shutBoth)
	s.closeLocked()
	return nil
}

// Abort closes the connection by a reset: the guest learns that what it has sent may be lost.
func (s *stream) Abort() error {
	s.dev.mu.Lock()
	defer s.dev.mu.Unlock()
	if s.state.closedByUs() {
		return net.ErrClosed
	}
	s.shut = shutBoth
	s.abortLocked(net.ErrClosed)
	s.dev.flushLocked()
	s.closeLocked()
	return nil
}

// closeLocked is the part of Close that the guest does not see.
func (s *stream) closeLocked() {
	s.changeLocked(eventClosing)
	s.in = buffer{}
	s.readBy.setLocked(time.Time{}, nil)
	s.writeBy.setLocked(time.Time{}, nil)
	s.readable.Broadcast()
	s.writable.Broadcast()
	if s.state == stateLingering {
		s.linger = time.AfterFunc(closeTimeout, s.forget)
	}
}

// changeLocked takes the connection to the state that follows an event. Its listener has room for another when it is closed.
func (s *stream) changeLocked(e streamEvent) {
	s.state = s.state.after(e)
	if s.state == stateClosed && s.accepted != nil {
		s.accepted.held--
		s.accepted = nil
	}
}

// forget removes a closed connection whose guest has sent no reset.
func (s *stream) forget() {
	s.dev.mu.Lock()
	defer s.dev.mu.Unlock()
	s.abortLocked(syscall.ETIMEDOUT)
	s.dev.flushLocked()
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
	if s.state.closedByUs() {
		return net.ErrClosed
	}
	d.setLocked(t, wake)
	return nil
}
