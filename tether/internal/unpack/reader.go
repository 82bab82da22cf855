package unpack

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"io"
	"time"
)

const (
	tarBlock = 512 // all of a tar is a multiple of it (POSIX.1, pax interchange format)
	// readSize is how much of a layer is held: the largest piece of a file that is written at once.
	readSize = 1 << 20
)

// reader reads a layer's entries. Headers without extensions, which are nearly all, it decodes itself: archive/tar takes
// fifteen times the instructions for one, more than the kernel takes to make the file. All others archive/tar decodes,
// which also judges what is malformed.
type reader struct {
	in     *bufio.Reader // always at a multiple of tarBlock when a header is read
	n      int64         // bytes of the layer that were read
	left   int64         // bytes of the entry's content that were not
	slow   *tar.Reader   // reads the content of the entry at hand; nil: there are left bytes in in
	piece  []byte        // what slow reads into
	header tar.Header    // the latest that was decoded here
}

func newReader(r io.Reader) *reader { return &reader{in: bufio.NewReaderSize(r, readSize)} }

// next returns the next entry, which is valid until the next call, or io.EOF: at the tar's end, or with an r.n that is no
// multiple of tarBlock where padding is cut off.
func (r *reader) next() (*tar.Header, error) {
	if r.slow != nil && r.left > 0 {
		return r.nextSlow() // it knows how much of its entry is holes
	}
	if err := r.skip(); err != nil {
		return nil, err
	}
	block, err := r.in.Peek(tarBlock)
	if err == nil && r.decode(block) {
		r.discard(tarBlock)
		return &r.header, nil
	}
	if err != nil && err != io.EOF {
		return nil, err
	}
	r.slow = tar.NewReader(counter{r})
	return r.nextSlow()
}

func (r *reader) nextSlow() (*tar.Header, error) {
	h, err := r.slow.Next()
	if err == nil {
		r.left = h.Size
	}
	return h, err
}

// skip goes to where the next header begins.
func (r *reader) skip() error {
	if r.slow != nil {
		if _, err := r.slow.Read(make([]byte, 1)); err != io.EOF {
			return cmp.Or(err, tar.ErrHeader) // more bytes than the entry says
		}
		r.slow = nil
	}
	padding := -(r.n + r.left) & (tarBlock - 1)
	n := r.left + padding
	for r.left = 0; n > 0; {
		part, err := r.in.Discard(int(min(n, readSize)))
		r.n += int64(part)
		n -= int64(part)
		if err != nil && n > padding {
			return noEOF(err)
		}
		if err != nil {
			return err // an end within padding is io.EOF, as in archive/tar; r.n tells it from the tar's end
		}
	}
	return nil
}

// content returns the next bytes of the entry's content, at most readSize, which are valid until the next call.
func (r *reader) content() ([]byte, error) {
	want := int(min(r.left, readSize))
	if r.slow != nil {
		if r.piece == nil {
			r.piece = make([]byte, readSize)
		}
		n, err := io.ReadFull(r.slow, r.piece[:want])
		r.left -= int64(n)
		return r.piece[:n], noEOF(err)
	}
	piece, err := r.in.Peek(want)
	if err != nil {
		return nil, noEOF(err)
	}
	r.left -= int64(want)
	r.discard(want)
	return piece, nil
}

// discard drops what was peeked at; the bytes stay until the next read.
func (r *reader) discard(n int) {
	_, _ = r.in.Discard(n) // they are in the buffer
	r.n += int64(n)
}

// rest reads what is behind the tar's end.
func (r *reader) rest() error {
	_, err := io.Copy(io.Discard, r.in)
	return err
}

// counter is the layer for archive/tar.
type counter struct{ *reader }

func (c counter) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	c.n += int64(n)
	return n, err
}

// Fields of a header block: offset and length (POSIX.1 ustar; GNU's has the same up to devminor).
const (
	atName, maxNameField     = 0, 100
	atMode, atUID, atGID     = 100, 108, 116 // 8 bytes each
	atSize, atTime           = 124, 136      // 12 bytes each
	atSum, atType            = 148, 156
	atLink                   = 157
	atMagic                  = 257 // magic and version, 8 bytes
	atMajor, atMinor         = 329, 337
	atPrefix, maxPrefixField = 345, 155
)

// decode fills header from a block and reports whether that is all there is to it: a plain entry, well formed, in the
// format of POSIX or GNU.
func (r *reader) decode(b []byte) bool {
	kind := b[atType]
	if kind < tar.TypeReg || kind > tar.TypeFifo || !summed(b) {
		return false
	}
	h := &r.header
	*h = tar.Header{Typeflag: kind, Name: text(b[atName:][:maxNameField]), Linkname: text(b[atLink:][:maxNameField])}
	switch string(b[atMagic:][:8]) {
	case "ustar\x0000":
		if string(b[tarBlock-4:]) == "tar\x00" {
			return false // star, which has times where POSIX has the end of the prefix
		}
		if prefix := text(b[atPrefix:][:maxPrefixField]); prefix != "" {
			h.Name = prefix + "/" + h.Name
		}
	case "ustar  \x00":
		if b[atPrefix] != 0 {
			return false // GNU has times here
		}
	default:
		return false
	}
	var number [7]int64
	for i, field := range [7][]byte{
		b[atMode:][:8], b[atUID:][:8], b[atGID:][:8], b[atSize:][:12], b[atTime:][:12], b[atMajor:][:8], b[atMinor:][:8],
	} {
		var ok bool
		if number[i], ok = octal(field); !ok {
			return false
		}
	}
	h.Mode, h.Uid, h.Gid, h.Size = number[0], int(number[1]), int(number[2]), number[3]
	h.ModTime, h.Devmajor, h.Devminor = time.Unix(number[4], 0), number[5], number[6]
	if r.left = 0; kind == tar.TypeReg {
		r.left = h.Size
	}
	return true
}

// text is a field up to its first zero byte.
func text(field []byte) string {
	if i := bytes.IndexByte(field, 0); i >= 0 {
		field = field[:i]
	}
	return string(field)
}

// octal is the number of a field: digits up to a space or zero byte. ok is false for anything else.
func octal(field []byte) (n int64, ok bool) {
	for i, c := range field {
		switch {
		case '0' <= c && c <= '7':
			n = n<<3 | int64(c-'0')
		case c == 0 || c == ' ':
			return n, len(bytes.Trim(field[i:], " \x00")) == 0
		default:
			return 0, false
		}
	}
	return n, true
}

// summed reports whether a block holds the sum of its bytes, taking the sum's own field for spaces.
func summed(b []byte) bool {
	want, ok := octal(b[atSum:][:8])
	sum := int64(8 * ' ')
	for _, c := range b[:atSum] {
		sum += int64(c)
	}
	for _, c := range b[atType:tarBlock] {
		sum += int64(c)
	}
	return ok && sum == want
}

// noEOF makes an end where there must be more an error.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
