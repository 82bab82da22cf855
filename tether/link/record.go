package link

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// RecordStream says what a log record holds.
type RecordStream uint8

const (
	// StreamStdout is output of the main process on its standard output, or on its terminal.
	StreamStdout RecordStream = 1
	// StreamStderr is output on its standard error.
	StreamStderr RecordStream = 2
	// StreamRun marks a start of the machine. The host writes it; its payload, at most 64 bytes, is the host's own (for hostd-bridge,
	// hostapi.Marker).
	StreamRun RecordStream = 3
	// StreamGap stands in an answer of a host where bytes of the log are missing, and in no file: Record.Gap.
	StreamGap RecordStream = 4
)

func (s RecordStream) String() string {
	switch s {
	case StreamStdout:
		return "stdout"
	case StreamStderr:
		return "stderr"
	case StreamRun:
		return "run"
	case StreamGap:
		return "gap"
	default:
		return fmt.Sprintf("stream %d", uint8(s))
	}
}

const (
	// MaxRecord is the longest payload of a log record, in bytes.
	MaxRecord = 64 << 10
	// RecordHeader is the length of a record's header, in bytes.
	RecordHeader = 16
	// maxRunMarker bounds the payload of a run marker, in bytes.
	maxRunMarker = 64
	// gapLength is the length of the payload of a gap, in bytes.
	gapLength = 8
)

// Record is a piece of log. A guest leaves Time zero: its host stamps records as they arrive.
type Record struct {
	Stream  RecordStream
	Time    time.Time // zero, or after 1970
	Payload []byte
}

// AppendRecord appends the encoded record to dst. A payload longer than MaxRecord becomes several records.
func AppendRecord(dst []byte, r Record) []byte {
	for len(r.Payload) > MaxRecord {
		dst = appendOne(dst, Record{r.Stream, r.Time, r.Payload[:MaxRecord]})
		r.Payload = r.Payload[MaxRecord:]
	}
	return appendOne(dst, r)
}

func appendOne(dst []byte, r Record) []byte {
	dst = append(dst, byte(r.Stream), 0, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(r.Payload)))
	dst = binary.BigEndian.AppendUint64(dst, unixNano(r.Time))
	return append(dst, r.Payload...)
}

func unixNano(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixNano())
}

// Gap is a record that says that n bytes of a log, whole records, are missing at its place. The record itself is none of the log's.
func Gap(n int64) Record {
	return Record{Stream: StreamGap, Payload: binary.BigEndian.AppendUint64(nil, uint64(n))}
}

// Gap is how many bytes of the log are missing at the record's place, headers counted; 0 of any other record.
func (r Record) Gap() int64 {
	if r.Stream != StreamGap || len(r.Payload) != gapLength {
		return 0
	}
	return int64(binary.BigEndian.Uint64(r.Payload) & (1<<63 - 1))
}

// Length is how many bytes of the log a record stands for: its own, or those that are missing.
func (r Record) Length() int64 {
	if r.Stream == StreamGap {
		return r.Gap()
	}
	return RecordHeader + int64(len(r.Payload))
}

// RecordReader decodes records.
type RecordReader struct {
	r       *bufio.Reader
	payload []byte
}

// NewRecordReader reads records from r, buffered: it may read further than the record it returned last.
func NewRecordReader(r io.Reader) *RecordReader {
	return &RecordReader{r: bufio.NewReaderSize(r, RecordHeader+MaxRecord)}
}

// Next returns the next record; its payload is valid until the next call. The error is io.EOF, unwrapped, at a record
// border and wraps io.ErrUnexpectedEOF within a record.
func (d *RecordReader) Next() (Record, error) {
	var head [RecordHeader]byte
	if _, err := io.ReadFull(d.r, head[:]); err == io.EOF {
		return Record{}, io.EOF
	} else if err != nil {
		return Record{}, fmt.Errorf("cannot read header of log record: %w", err)
	}
	rec, n, err := parseRecordHeader(head)
	if err != nil {
		return Record{}, err
	}
	if cap(d.payload) < n {
		d.payload = make([]byte, n, max(n, 2*cap(d.payload)))
	}
	rec.Payload = d.payload[:n]
	if _, err := io.ReadFull(d.r, rec.Payload); err == io.EOF {
		return Record{}, fmt.Errorf("cannot read log record: %w", io.ErrUnexpectedEOF)
	} else if err != nil {
		return Record{}, fmt.Errorf("cannot read log record: %w", err)
	}
	return rec, nil
}

func parseRecordHeader(head [RecordHeader]byte) (rec Record, length int, err error) {
	rec.Stream = RecordStream(head[0])
	n := binary.BigEndian.Uint32(head[4:])
	nanos := binary.BigEndian.Uint64(head[8:])
	switch {
	case rec.Stream < StreamStdout || rec.Stream > StreamGap:
		return rec, 0, fmt.Errorf("cannot decode log record: unknown stream %d", head[0])
	case head[1]|head[2]|head[3] != 0:
		return rec, 0, errors.New("cannot decode log record: reserved bytes are not zero")
	case n > MaxRecord:
		return rec, 0, fmt.Errorf("cannot decode log record: its payload has %d bytes, the limit is %d", n, MaxRecord)
	case rec.Stream == StreamRun && n > maxRunMarker:
		return rec, 0, fmt.Errorf("cannot decode log record: a run marker with a payload of %d bytes, the limit is %d", n, maxRunMarker)
	case rec.Stream == StreamGap && n != gapLength:
		return rec, 0, fmt.Errorf("cannot decode log record: a gap with a payload of %d bytes, want %d", n, gapLength)
	case nanos > 1<<63-1:
		return rec, 0, errors.New("cannot decode log record: its time is out of range")
	}
	if nanos != 0 {
		rec.Time = time.Unix(0, int64(nanos))
	}
	return rec, int(n), nil
}

// ScanRecords reads to the end of r, a file, and returns the offset behind the last whole record, which is where a torn or
// damaged tail is cut off. The error is nil when r ended there, else it says what is wrong behind that offset.
func ScanRecords(r io.Reader) (good int64, err error) {
	records := NewRecordReader(r)
	for {
		rec, err := records.Next()
		if err == io.EOF {
			return good, nil
		}
		if err != nil {
			return good, err
		}
		good += RecordHeader + int64(len(rec.Payload))
	}
}
