package linktest

import (
	"io"
	"sync"
)

// RingSize is how much of each output stream the fake tether keeps, in bytes, unless a reader was promised.
const RingSize = 64 << 10

// ring keeps the end of an output stream, with offsets.
type ring struct {
	mu    sync.Mutex
	more  chan struct{} // closed and replaced when there is more to read
	base  int64         // offset of data[0]
	data  []byte
	keep  bool // a reader was promised: nothing is dropped
	ended bool
}

func newRing(keep bool) *ring { return &ring{more: make(chan struct{}), keep: keep} }

func (r *ring) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return 0, io.ErrClosedPipe
	}
	r.data = append(r.data, p...)
	if over := len(r.data) - RingSize; over > 0 && !r.keep {
		r.data = append([]byte(nil), r.data[over:]...)
		r.base += int64(over)
	}
	r.wake()
	return len(p), nil
}

func (r *ring) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	r.wake()
}

func (r *ring) wake() {
	close(r.more)
	r.more = make(chan struct{})
}

// reader begins at offset, or at the nearest byte that exists.
func (r *ring) reader(offset int64) (rd *ringReader, dropped int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := min(max(offset, r.base), r.base+int64(len(r.data)))
	if offset >= 0 && offset < r.base {
		dropped = r.base - offset
	}
	return &ringReader{ring: r, at: first, lost: dropped, closed: make(chan struct{})}, dropped
}

type ringReader struct {
	ring   *ring
	at     int64
	lost   int64 // only Read changes it
	once   sync.Once
	closed chan struct{}
}

func (r *ringReader) Read(p []byte) (int, error) {
	for {
		n, more, err := r.take(p)
		if n > 0 || err != nil {
			return n, err
		}
		select {
		case <-more:
		case <-r.closed:
			return 0, io.ErrClosedPipe
		}
	}
}

func (r *ringReader) take(p []byte) (int, <-chan struct{}, error) {
	r.ring.mu.Lock()
	defer r.ring.mu.Unlock()
	r.lost += max(0, r.ring.base-r.at)
	r.at = max(r.at, r.ring.base)
	n := copy(p, r.ring.data[r.at-r.ring.base:])
	r.at += int64(n)
	if n == 0 && r.ring.ended {
		return 0, nil, io.EOF
	}
	return n, r.ring.more, nil
}

// Dropped implements link.Lossy.
func (r *ringReader) Dropped() int64 { return r.lost }

func (r *ringReader) Close() error {
	r.once.Do(func() { close(r.closed) })
	return nil
}
