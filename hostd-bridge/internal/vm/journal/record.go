package journal

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A record on disk is a header of 8 bytes (big-endian payload length, big-endian CRC-32C of the payload) and a payload,
// the JSON of a []Change.
const (
	headerSize = 8
	// maxRecord bounds one payload in bytes; a header that announces more is damage, not data.
	maxRecord = 16 << 20
)

// castagnoli is the polynomial of CRC-32C (RFC 3720, appendix B.4); current CPUs compute it in hardware.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errTorn marks a record that was not written whole.
var errTorn = errors.New("torn record")

// Change sets a document, or deletes it when Value is empty.
type Change struct {
	Key   string          `json:"k"`
	Value json.RawMessage `json:"v,omitempty"`
}

// Put returns the change that stores value under key.
func Put(key string, value any) (Change, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return Change{}, fmt.Errorf("cannot encode the journal document %q: %w", key, err)
	}
	return Change{Key: key, Value: data}, nil
}

// Delete returns the change that removes key.
func Delete(key string) Change { return Change{Key: key} }

func appendRecord(dst []byte, changes []Change) ([]byte, error) {
	payload, err := json.Marshal(changes)
	if err != nil {
		return dst, fmt.Errorf("cannot encode a journal record: %w", err)
	}
	if len(payload) > maxRecord {
		return dst, fmt.Errorf("cannot write a journal record: %d bytes, the limit is %d", len(payload), maxRecord)
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(payload)))
	dst = binary.BigEndian.AppendUint32(dst, crc32.Checksum(payload, castagnoli))
	return append(dst, payload...), nil
}

// readRecord returns the next record and its size in bytes. It returns io.EOF at a record's border and errTorn for
// anything that is no whole record.
func readRecord(r io.Reader) ([]Change, int64, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err == io.EOF {
		return nil, 0, io.EOF
	} else if err != nil {
		return nil, 0, tornOr(err)
	}
	length := binary.BigEndian.Uint32(header[:4])
	if length > maxRecord {
		return nil, 0, errTorn
	}
	payload, err := io.ReadAll(io.LimitReader(r, int64(length)))
	if err != nil {
		return nil, 0, err
	}
	var changes []Change
	switch {
	case len(payload) < int(length),
		crc32.Checksum(payload, castagnoli) != binary.BigEndian.Uint32(header[4:]),
		json.Unmarshal(payload, &changes) != nil:
		return nil, 0, errTorn
	}
	return changes, headerSize + int64(length), nil
}

func tornOr(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errTorn
	}
	return err
}

// findRecord looks for a whole record at any later offset of data.
func findRecord(data []byte) (int, bool) {
	for i := 1; i+headerSize < len(data); i++ {
		length := int(binary.BigEndian.Uint32(data[i:]))
		payload := data[i+headerSize:]
		if length < len("[]") || length > len(payload) {
			continue
		}
		if crc32.Checksum(payload[:length], castagnoli) == binary.BigEndian.Uint32(data[i+4:]) {
			return i, true
		}
	}
	return 0, false
}
