package unpack

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// directSize is from which size on the whole pages of a file are written past the page cache: a page in the cache costs an
	// emulated guest 7000 instructions and half as many when it is written back, a direct write as much as a few pages do.
	directSize = 64 << 10
	// pageSize is that of memory, and the usual block of a file system: what is written as a whole, or left out.
	pageSize = 4096
	// smallPieces and largePieces are how many pieces wait to be written at most, of directSize and of readSize bytes.
	smallPieces, largePieces = 32, 4
)

// outFile is a file whose content is to be written. It is closed by its last piece.
type outFile struct {
	fd     int
	entry  entry
	sparse bool
	direct bool // fd is O_DIRECT
}

// piece is a part of a file's content.
type piece struct {
	*outFile
	data  []byte
	at    int64
	last  bool
	spoil bool // with last: the file is given up
}

// writer writes the content of files while the next ones are made: on another processor, and while the disk works.
type writer struct {
	pieces       chan piece
	small, large chan []byte // buffers; nil: not allocated yet
	ended        chan struct{}

	mu  sync.Mutex
	err error // the first
}

func startWriter() *writer {
	w := &writer{
		pieces: make(chan piece, smallPieces), ended: make(chan struct{}),
		small: make(chan []byte, smallPieces), large: make(chan []byte, largePieces),
	}
	for range smallPieces {
		w.small <- nil
	}
	for range largePieces {
		w.large <- nil
	}
	go w.run()
	return w
}

// buffer waits for a buffer of at least size bytes.
func (w *writer) buffer(size int) []byte {
	from, whole := w.small, directSize
	if size > directSize {
		from, whole = w.large, readSize
	}
	b := <-from
	if b == nil {
		b = make([]byte, whole)
	}
	return b[:size]
}

func (w *writer) release(b []byte) {
	switch cap(b) {
	case directSize:
		w.small <- b
	case readSize:
		w.large <- b
	}
}

// end waits until all is written and returns the first error.
func (w *writer) end() error {
	close(w.pieces)
	<-w.ended
	return w.failure()
}

// failure is the error of a file whose making has been answered already, or nil.
func (w *writer) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

func (w *writer) fail(f *outFile, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = entryError(f.entry.Name, err)
	}
}

func (w *writer) run() {
	defer close(w.ended)
	for p := range w.pieces {
		if w.failure() == nil && !p.spoil {
			if err := p.write(); err != nil {
				w.fail(p.outFile, err)
			}
		}
		if p.last {
			if err := unix.Close(p.fd); err != nil && !p.spoil {
				w.fail(p.outFile, fmt.Errorf("cannot close file: %w", err))
			}
		}
		w.release(p.data)
	}
}

// write writes the piece and, with the last one, sets what else the file has.
func (p *piece) write() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the unpacker is broken: %v\n%s", r, debug.Stack())
		}
	}()
	switch {
	case p.sparse:
		err = writeSparse(p.fd, p.data, p.at)
	case p.direct:
		err = p.writeDirect()
	default:
		err = writeAll(p.fd, p.data)
	}
	if err != nil {
		return fmt.Errorf("cannot write content at byte %d of %d: %w", p.at, p.entry.Size, err)
	}
	if !p.last {
		return nil
	}
	if p.sparse {
		if err := unix.Ftruncate(p.fd, p.entry.Size); err != nil {
			return fmt.Errorf("cannot set length: %w", err)
		}
	}
	return p.entry.setFileMeta(p.fd)
}

// writeDirect writes whole pages directly and what is left, the file's end, as any other. The file system may refuse
// direct writes, also by their place in memory, and take the same bytes otherwise.
func (p *piece) writeDirect() error {
	whole := p.data[:len(p.data)&^(pageSize-1)]
	n, err := unix.Write(p.fd, whole)
	if err == nil && n == len(p.data) {
		return nil
	}
	if err != nil && err != unix.EINVAL && err != unix.EINTR {
		return err
	}
	if err := setDirect(p.fd, false); err != nil {
		return err
	}
	p.direct = false
	return writeAll(p.fd, p.data[max(n, 0):])
}

func setDirect(fd int, on bool) error {
	flags := unix.O_LARGEFILE
	if on {
		flags |= unix.O_DIRECT
	}
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags)
	return err
}

func writeAll(fd int, p []byte) error {
	for len(p) > 0 {
		n, err := unix.Write(fd, p)
		if err != nil && err != unix.EINTR {
			return err
		}
		p = p[max(n, 0):]
	}
	return nil
}

// writeSparse writes the blocks of p that are not all zero. Where the holes were is not what archive/tar tells, but
// what it fills them with does.
func writeSparse(fd int, p []byte, at int64) error {
	var zero [pageSize]byte
	for len(p) > 0 {
		block := p[:min(len(p), pageSize)]
		if !bytes.Equal(block, zero[:len(block)]) {
			if n, err := unix.Pwrite(fd, block, at); err != nil {
				return err
			} else if n < len(block) {
				return io.ErrShortWrite
			}
		}
		p = p[len(block):]
		at += int64(len(block))
	}
	return nil
}

// isSparse reports whether the file has holes, in any of the formats that archive/tar knows.
func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}
