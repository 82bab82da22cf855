package image

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
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

// maxXZDictionary bounds the memory of a decoder in bytes: what xz -9 makes needs that much (xz(1)).
const maxXZDictionary = 64 << 20

// readBuffer is the size of reads from archives and registries in bytes.
const readBuffer = 256 << 10

// Decompress returns what is in r, which is a plain stream or one compressed by gzip, zstd, xz or bzip2, as its first bytes
// tell. Closing it does not close r.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	src := &input{r: r}
	b := bufio.NewReaderSize(src, readBuffer)
	head, err := b.Peek(magicBytes)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	plain, err := decoder(b, head)
	if err != nil {
		return nil, err
	}
	return decoded{plain, src}, nil
}

// compression is how a stream is compressed.
type compression int

const (
	uncompressed compression = iota
	byGzip
	byZstd
	byXZ
	byBzip2
)

// magicBytes is how many bytes compressionOf looks at.
const magicBytes = 6

// compressionOf tells how a stream is compressed that begins with head.
func compressionOf(head []byte) compression {
	switch {
	case bytes.HasPrefix(head, magicGzip):
		return byGzip
	case bytes.HasPrefix(head, magicZstd), isSkippable(head):
		return byZstd
	case bytes.HasPrefix(head, magicXZ):
		return byXZ
	case bytes.HasPrefix(head, magicBzip2):
		return byBzip2
	}
	return uncompressed
}

// decoder returns what decodes r, which begins with head.
func decoder(r io.Reader, head []byte) (io.ReadCloser, error) {
	switch compressionOf(head) {
	case byGzip:
		return gzip.NewReader(r)
	case byZstd:
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case byXZ:
		x, err := xz.NewReader(r, maxXZDictionary)
		return io.NopCloser(x), err
	case byBzip2:
		return io.NopCloser(bzip2.NewReader(r)), nil
	}
	return io.NopCloser(r), nil
}

// decoded is the output of a decoder. An error is the data's fault, and of class errdefs.ErrInvalidArgument, unless the data
// could not be read.
type decoded struct {
	io.ReadCloser
	src *input
}

func (d decoded) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && d.src.err == nil {
		err = invalid("%w", err)
	}
	return n, err
}

// input remembers the error of what it reads.
type input struct {
	r   io.Reader
	err error // nil also at the end
}

func (i *input) Read(p []byte) (int, error) {
	n, err := i.r.Read(p)
	if err != nil && err != io.EOF {
		i.err = err
	}
	return n, err
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
