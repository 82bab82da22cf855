package image

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Magic numbers at the start of compressed data.
var (
	magicGzip  = []byte{0x1f, 0x8b}                     // RFC 1952, 2.3.1
	magicZstd  = []byte{0x28, 0xb5, 0x2f, 0xfd}         // RFC 8878, 3.1.1
	magicXZ    = []byte{0xfd, '7', 'z', 'X', 'Z', 0x00} // xz file format, 2.1.1.1
	magicBzip2 = []byte{'B', 'Z', 'h'}
)

// maxZstdWindow bounds the memory of a decoder; zstd's own tool refuses more than 128 MiB unless told otherwise
// (zstd, lib/zstd.h: ZSTD_WINDOWLOG_LIMIT_DEFAULT is 27).
const maxZstdWindow = 128 << 20

// readBuffer is the size of reads from archives and registries in bytes.
const readBuffer = 256 << 10

// decompress returns what is in r, which is a plain, gzip or zstd stream as its first bytes tell. Closing it does not
// close r.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, readBuffer)
	head, err := b.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, magicGzip):
		return gzip.NewReader(b)
	case bytes.HasPrefix(head, magicZstd), isSkippable(head):
		z, err := zstd.NewReader(b, zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case bytes.HasPrefix(head, magicXZ), bytes.HasPrefix(head, magicBzip2):
		return nil, invalid("it is compressed by xz or bzip2; compress it by gzip or zstd, or not at all")
	}
	return io.NopCloser(b), nil
}

// isSkippable reports whether a zstd stream begins with a skippable frame, whose magic number is 0x184D2A50 to 0x184D2A5F in
// little-endian order (RFC 8878, 3.1.2). pzstd puts one before each frame.
func isSkippable(head []byte) bool {
	return len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18})
}

// limitReader fails, rather than ends, when r holds more than left bytes.
type limitReader struct {
	r    io.Reader
	left int64
	what string
}

func (l *limitReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, invalid("%s is too large", l.what)
	}
	return n, err
}
