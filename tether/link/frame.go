package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// streamKind says what a stream of a session is for.
type streamKind uint8

const (
	kindStdout streamKind = 0x01 // tether to host: the session's standard output, or its terminal
	kindStderr streamKind = 0x02 // tether to host: its standard error
	kindInput  streamKind = 0x03 // host to tether: its standard input
	kindUpload streamKind = 0x04 // host to tether: bytes for an Unpack
	kindTCP    streamKind = 0x05 // both ways: a TCP connection made in the container's network
	kindUDP    streamKind = 0x06 // both ways: datagrams of a UDP socket there

	kindDownload streamKind = 0x07 // tether to host: bytes of an Export
)

// Lengths, in bytes.
const (
	streamHeaderLength = 16
	replyLength        = 24
	frameHeaderLength  = 4
	maxReason          = 1024      // text of a reply or of an error frame
	maxFrame           = 1<<24 - 1 // payload of a data frame: what its length can say
	// chunk is the payload of the data frames that this package sends: with the headers of frame and yamux it fills one
	// virtio-vsock packet of the Linux kernel (VIRTIO_VSOCK_MAX_PKT_BUF_SIZE, include/linux/virtio_vsock.h).
	chunk = 64<<10 - frameHeaderLength - muxHeaderLength
)

// streamHeader is what the host sends first on each stream but the control stream.
type streamHeader struct {
	kind   streamKind
	id     string // session, upload, download, or the address and port that a forward leads to
	offset int64  // output only: first byte wanted; negative: the oldest one kept
}

func appendStreamHeader(dst []byte, h streamHeader) []byte {
	dst = append(dst, byte(h.kind), 0, byte(len(h.id)), 0, 0, 0, 0, 0)
	dst = binary.BigEndian.AppendUint64(dst, uint64(h.offset))
	return append(dst, h.id...)
}

func readStreamHeader(r io.Reader) (streamHeader, error) {
	var b [streamHeaderLength + maxSession]byte
	if _, err := io.ReadFull(r, b[:streamHeaderLength]); err != nil {
		return streamHeader{}, fmt.Errorf("cannot read stream header: %w", err)
	}
	h := streamHeader{kind: streamKind(b[0]), offset: int64(binary.BigEndian.Uint64(b[8:]))}
	n := int(b[2])
	switch {
	case h.kind < kindStdout || h.kind > kindDownload:
		return h, fmt.Errorf("unknown stream kind %d", b[0])
	case b[1]|b[3]|b[4]|b[5]|b[6]|b[7] != 0:
		return h, errors.New("reserved bytes of the stream header are not zero")
	case n > maxSession:
		return h, fmt.Errorf("stream header with an id of %d bytes, the limit is %d", n, maxSession)
	}
	id := b[streamHeaderLength:][:n]
	if _, err := io.ReadFull(r, id); err != nil {
		return h, fmt.Errorf("cannot read id of stream: %w", err)
	}
	h.id = string(id)
	if err := h.check(); err != nil {
		return h, err
	}
	return h, nil
}

// check looks at the id.
func (h streamHeader) check() error {
	if h.kind == kindTCP || h.kind == kindUDP {
		if a, err := netip.ParseAddrPort(h.id); err != nil || a.Port() == 0 || a.Addr().Zone() != "" || len(h.id) > maxSession {
			return fmt.Errorf("cannot forward to %.80q: want an IP address and a port, such as 127.0.0.1:80 or [::1]:80", h.id)
		}
		return nil
	}
	if !ValidSession(h.id) {
		return fmt.Errorf("the name %.80q is not 1 to %d of the characters A-Z a-z 0-9 _ . -", h.id, maxSession)
	}
	return nil
}

// reply is the tether's answer to a stream header.
type reply struct {
	code    codes.Code
	reason  string // unless code is OK
	first   int64  // output only: offset of the first byte that follows
	dropped int64  // output only: bytes between the offset wanted and first
}

func appendReply(dst []byte, r reply) []byte {
	reason := r.reason[:min(len(r.reason), maxReason)]
	dst = append(dst, byte(r.code), 0)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(reason)))
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.first))
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.dropped))
	return append(dst, reason...)
}

func readReply(r io.Reader) (reply, error) {
	var b [replyLength]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return reply{}, err
	}
	rep := reply{
		code:    codes.Code(b[0]),
		first:   int64(binary.BigEndian.Uint64(b[8:])),
		dropped: int64(binary.BigEndian.Uint64(b[16:])),
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	switch {
	case b[1]|b[4]|b[5]|b[6]|b[7] != 0:
		return reply{}, errors.New("reserved bytes of the stream reply are not zero")
	case n > maxReason:
		return reply{}, fmt.Errorf("stream reply with a reason of %d bytes, the limit is %d", n, maxReason)
	case rep.first < 0 || rep.dropped < 0:
		return reply{}, errors.New("stream reply with a negative offset")
	}
	reason := make([]byte, n)
	if _, err := io.ReadFull(r, reason); err != nil {
		return reply{}, err
	}
	rep.reason = string(reason)
	return rep, nil
}

// err is the refusal that a reply tells of, or nil.
func (r reply) err() error {
	if r.code == codes.OK {
		return nil
	}
	return refusalOf(r.code, r.reason)
}

// frameType says what a frame is. Frames follow the stream header on input and the reply on output.
type frameType uint8

const (
	frameData  frameType = 0x01 // 1 to maxFrame bytes
	frameEnd   frameType = 0x02 // no payload: the sender has sent all there is
	frameError frameType = 0x03 // a status code and 0 to maxReason bytes of text: the sender gives up
	frameSkip  frameType = 0x04 // output only: u64 number of bytes that are missing here, at least 1
)

func putFrameHeader(b []byte, t frameType, length int) {
	binary.BigEndian.PutUint32(b, uint32(t)<<24|uint32(length))
}

func parseFrameHeader(b [frameHeaderLength]byte) (frameType, int, error) {
	v := binary.BigEndian.Uint32(b[:])
	t, n := frameType(v>>24), int(v&maxFrame)
	switch {
	case t == frameData && n > 0, t == frameEnd && n == 0, t == frameSkip && n == 8, t == frameError && 1 <= n && n <= 1+maxReason:
		return t, n, nil
	default:
		return 0, 0, fmt.Errorf("malformed frame: type %d with %d bytes", t, n)
	}
}

func appendSkipFrame(dst []byte, n int64) []byte {
	dst = append(dst, 0, 0, 0, 0)
	putFrameHeader(dst[len(dst)-frameHeaderLength:], frameSkip, 8)
	return binary.BigEndian.AppendUint64(dst, uint64(n))
}

func appendErrorFrame(dst []byte, err error) []byte {
	st := status.Convert(err)
	text := st.Message()[:min(len(st.Message()), maxReason)]
	dst = append(dst, 0, 0, 0, 0)
	putFrameHeader(dst[len(dst)-frameHeaderLength:], frameError, 1+len(text))
	return append(append(dst, byte(st.Code())), text...)
}

// frameReader reads the payload of data frames. It returns io.EOF after an end frame only; a stream that ends without
// one was lost.
type frameReader struct {
	r       io.Reader
	left    int   // bytes of the current data frame not yet read
	err     error // sticky
	read    int64 // bytes of data so far
	skipped int64 // bytes that skip frames say are missing
}

func (f *frameReader) Read(p []byte) (int, error) {
	for f.err == nil && f.left == 0 {
		f.err = f.next()
	}
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.r.Read(p[:min(len(p), f.left)])
	f.left -= n
	f.read += int64(n)
	if err != nil {
		f.err = lost(err)
	}
	if n > 0 {
		return n, nil
	}
	return 0, f.err
}

// next reads a frame up to its data; an error says why there is none.
func (f *frameReader) next() error {
	var head [frameHeaderLength]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		return lost(err)
	}
	t, n, err := parseFrameHeader(head)
	if err != nil {
		return err
	}
	switch t {
	case frameData:
		f.left = n
		return nil
	case frameEnd:
		return io.EOF
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(f.r, payload); err != nil {
		return lost(err)
	}
	if t == frameError {
		return refusalOf(codes.Code(payload[0]), string(payload[1:]))
	}
	return f.skip(binary.BigEndian.Uint64(payload))
}

func (f *frameReader) skip(n uint64) error {
	if n == 0 || n > uint64(math.MaxInt64-f.skipped) {
		return fmt.Errorf("malformed skip of %d bytes", n)
	}
	f.skipped += int64(n)
	return nil
}

// frameWriter writes data frames. It copies what it is given, so that header and payload leave in one Write.
type frameWriter struct {
	w   io.Writer
	buf []byte
}

func (f *frameWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		part := p[:min(len(p), chunk)]
		f.buf = append(append(f.buf[:0], 0, 0, 0, 0), part...)
		putFrameHeader(f.buf, frameData, len(part))
		if _, err := f.w.Write(f.buf); err != nil {
			return n, err
		}
		n += len(part)
		p = p[len(part):]
	}
	return n, nil
}

// end says that no data follows.
func (f *frameWriter) end() error {
	var b [frameHeaderLength]byte
	putFrameHeader(b[:], frameEnd, 0)
	_, err := f.w.Write(b[:])
	return err
}

// fail says that no data follows since err happened.
func (f *frameWriter) fail(err error) error {
	_, werr := f.w.Write(appendErrorFrame(nil, err))
	return werr
}
