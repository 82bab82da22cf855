package process

import (
	"errors"
	"io"
	"os"
	"sync"
)

const (
	// RingSize is how much of a stream stays readable, in bytes.
	RingSize = 1 << 20
	// ringStart is what a ring takes at first; it doubles as the stream grows, so a short-lived session stays small.
	ringStart = 4 << 10
	// usualPipe is what a pipe holds unless it is told otherwise (pipe(7)).
	usualPipe = 64 << 10
	// maxReserve is the most that one read takes, so that readers have the rest of the ring meanwhile.
	maxReserve = 256 << 10
)

// Ring keeps the newest bytes of a stream, by their offset from the stream's start. It has one writer, readers may be several.
//
// A reader that holds makes writers wait rather than overwrite what it has not read; other readers lose the oldest
// bytes and learn how many.
type Ring struct {
	mu      sync.Mutex
	changed sync.Cond
	buf     []byte // byte at offset o is buf[o % len(buf)]; grows only while the stream fits it
	size    int    // limit of len(buf)
	end     int64  // offset of the next byte written
	// reserved is how many bytes from end on a writer is filling; the older bytes in their place are gone.
	reserved int
	ended    bool
	holders  map[*RingReader]struct{}
}

// NewRing returns an empty ring of at most size bytes, at least ringStart.
func NewRing(size int) *Ring {
	r := &Ring{size: max(size, ringStart), holders: map[*RingReader]struct{}{}}
	r.changed.L = &r.mu
	return r
}

// ReadFrom appends what r gives, reading into the ring's own memory, until r ends or fails; io.EOF is no error. It waits
// for readers that hold. After End it returns os.ErrClosed. One goroutine writes at a time.
func (r *Ring) ReadFrom(src io.Reader) (n int64, err error) {
	for {
		space := r.reserve()
		if space == nil {
			return n, os.ErrClosed
		}
		got, err := src.Read(space)
		n += int64(got)
		r.commit(got)
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// reserve takes the place for the next bytes away from readers and returns it, or nil after End.
func (r *Ring) reserve() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.grow()
	for r.room() == 0 && !r.ended {
		r.changed.Wait()
	}
	if r.ended {
		return nil
	}
	at := int(r.end % int64(len(r.buf)))
	r.reserved = min(r.room(), len(r.buf)-at, maxReserve)
	return r.buf[at : at+r.reserved]
}

func (r *Ring) commit(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reserved = 0
	r.end += int64(n)
	r.changed.Broadcast()
}

// grow doubles a full buffer if it may. Bytes keep their place only while the stream has not wrapped.
func (r *Ring) grow() {
	if len(r.buf) == r.size || r.end < int64(len(r.buf)) {
		return
	}
	grown := make([]byte, min(max(2*len(r.buf), ringStart), r.size))
	copy(grown, r.buf)
	r.buf = grown
}

// room is how many bytes can be written without passing a reader that holds.
func (r *Ring) room() int {
	oldest := r.end
	for h := range r.holders {
		oldest = min(oldest, h.offset)
	}
	return len(r.buf) - int(r.end-oldest)
}

// End says that no byte will follow. Readers get io.EOF behind the last one.
func (r *Ring) End() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	r.changed.Broadcast()
}

// Memory is how many bytes the ring occupies.
func (r *Ring) Memory() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.buf)
}

// Reader reads from offset on; a negative offset means the oldest byte kept. An offset beyond the stream's end is an
// error. With hold, writers wait for the reader until it is closed or released.
func (r *Ring) Reader(offset int64, hold bool) (*RingReader, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if offset > r.end {
		return nil, errors.New("offset is beyond the end of the stream")
	}
	reader := &RingReader{ring: r, offset: max(offset, 0)}
	if offset < 0 {
		reader.offset = r.start()
	}
	reader.skip()
	reader.first = reader.offset
	if hold {
		r.holders[reader] = struct{}{}
	}
	return reader, nil
}

// start is the offset of the oldest byte kept.
func (r *Ring) start() int64 { return max(0, r.end+int64(r.reserved)-int64(len(r.buf))) }

// RingReader reads a ring from an offset. Read and Close may be called by different goroutines.
type RingReader struct {
	ring    *Ring
	offset  int64
	first   int64
	dropped int64
	closed  bool
}

// First is the offset of the first byte that the reader could give.
func (rr *RingReader) First() int64 { return rr.first }

// Dropped is how many bytes the reader has lost so far, those before First included.
func (rr *RingReader) Dropped() int64 {
	rr.ring.mu.Lock()
	defer rr.ring.mu.Unlock()
	return rr.dropped
}

// Read waits for at least one byte. It returns io.EOF behind the stream's last byte and os.ErrClosed after Close.
func (rr *RingReader) Read(p []byte) (int, error) {
	r := rr.ring
	r.mu.Lock()
	defer r.mu.Unlock()
	for !rr.closed && rr.offset == r.end && !r.ended {
		r.changed.Wait()
	}
	if rr.closed {
		return 0, os.ErrClosed
	}
	rr.skip()
	if rr.offset == r.end {
		return 0, io.EOF
	}
	at := int(rr.offset % int64(len(r.buf)))
	n := copy(p, r.buf[at:min(int64(len(r.buf)), int64(at)+r.end-rr.offset)])
	rr.offset += int64(n)
	r.changed.Broadcast()
	return n, nil
}

// skip goes to the oldest byte kept if the reader's own are overwritten.
func (rr *RingReader) skip() {
	if lost := rr.ring.start() - rr.offset; lost > 0 {
		rr.offset += lost
		rr.dropped += lost
	}
}

// Hold makes writers wait for the reader again, from the oldest byte on that is kept.
func (rr *RingReader) Hold() {
	rr.ring.mu.Lock()
	defer rr.ring.mu.Unlock()
	if !rr.closed {
		rr.skip()
		rr.ring.holders[rr] = struct{}{}
	}
}

// Release stops holding back writers; the reader goes on as one that may lose bytes.
func (rr *RingReader) Release() {
	rr.ring.mu.Lock()
	defer rr.ring.mu.Unlock()
	delete(rr.ring.holders, rr)
	rr.ring.changed.Broadcast()
}

// Close ends the reader, also a Read that waits.
func (rr *RingReader) Close() error {
	rr.ring.mu.Lock()
	defer rr.ring.mu.Unlock()
	rr.closed = true
	delete(rr.ring.holders, rr)
	rr.ring.changed.Broadcast()
	return nil
}
