package link

import (
	"fmt"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// maxSession is the longest session ID, in bytes; it fits a stream header's one byte of length.
const maxSession = 64

// EncodeSpec is the value of KeySpec: protobuf JSON on one line, at most MaxValue bytes.
func EncodeSpec(s *tetherv1.Spec) (string, error) { return encodeJSON("spec", s, describeSpec) }

// DecodeSpec decodes the value of KeySpec. Fields that this version does not know are ignored.
func DecodeSpec(text string) (*tetherv1.Spec, error) {
	s := &tetherv1.Spec{}
	return s, decodeJSON("spec", text, s, describeSpec)
}

// EncodeStatus is the value of KeyStatus: protobuf JSON on one line, at most MaxValue bytes.
func EncodeStatus(s *tetherv1.Status) (string, error) { return encodeJSON("status", s, describeStatus) }

// DecodeStatus decodes the value of KeyStatus. Fields that this version does not know are ignored.
func DecodeStatus(text string) (*tetherv1.Status, error) {
	s := &tetherv1.Status{}
	return s, decodeJSON("status", text, s, describeStatus)
}

// EncodeHealth is the value of KeyHealth: protobuf JSON on one line, at most MaxValue bytes.
func EncodeHealth(h *tetherv1.HealthStatus) (string, error) {
	return encodeJSON("health", h, describeHealthStatus)
}

// DecodeHealth decodes the value of KeyHealth. Fields that this version does not know are ignored.
func DecodeHealth(text string) (*tetherv1.HealthStatus, error) {
	h := &tetherv1.HealthStatus{}
	return h, decodeJSON("health", text, h, describeHealthStatus)
}

// EncodeClock is the value of KeyClock: protobuf JSON on one line.
func EncodeClock(s *tetherv1.ClockStatus) (string, error) {
	return encodeJSON("clock", s, describeClockStatus)
}

// DecodeClock decodes the value of KeyClock. Fields that this version does not know are ignored.
func DecodeClock(text string) (*tetherv1.ClockStatus, error) {
	s := &tetherv1.ClockStatus{}
	return s, decodeJSON("clock", text, s, describeClockStatus)
}

// EncodeFork is the value of KeyFork: protobuf JSON on one line.
func EncodeFork(f *tetherv1.Fork) (string, error) { return encodeJSON("fork", f, describeFork) }

// DecodeFork decodes the value of KeyFork. Fields that this version does not know are ignored.
func DecodeFork(text string) (*tetherv1.Fork, error) {
	f := &tetherv1.Fork{}
	return f, decodeJSON("fork", text, f, describeFork)
}

// EncodeReceipt is the value of KeyReceipt: protobuf JSON on one line.
func EncodeReceipt(r *tetherv1.Receipt) (string, error) {
	return encodeJSON("receipt", r, describeReceipt)
}

// DecodeReceipt decodes the value of KeyReceipt. Fields that this version does not know are ignored.
func DecodeReceipt(text string) (*tetherv1.Receipt, error) {
	r := &tetherv1.Receipt{}
	return r, decodeJSON("receipt", text, r, describeReceipt)
}

// Failed is the first item of a receipt that failed, or nil.
func Failed(r *tetherv1.Receipt) *tetherv1.ReceiptItem {
	for _, i := range r.GetItems() {
		if i.Outcome == tetherv1.ReceiptItem_FAILED {
			return i
		}
	}
	return nil
}

func encodeJSON[M any](what string, m *M, d describe[M]) (string, error) {
	var c codec
	d.encode(&c, m)
	if c.err != nil {
		return "", fmt.Errorf("cannot encode %s: %w", what, c.err)
	}
	if len(c.out) > MaxValue {
		return "", fmt.Errorf("cannot encode %s: it has %d bytes as JSON, the limit is %d", what, len(c.out), MaxValue)
	}
	return string(c.out), nil
}

func decodeJSON[M any](what, text string, m *M, d describe[M]) error {
	if len(text) > MaxValue {
		return fmt.Errorf("cannot decode %s: it has %d bytes, the limit is %d", what, len(text), MaxValue)
	}
	in := &jsonReader{text: text}
	d.decode(in, m)
	if err := in.end(); err != nil {
		return fmt.Errorf("cannot decode %s: %w", what, err)
	}
	return nil
}

// ValidSession reports whether id may name a session or an upload: 1 to 64 of the characters A-Z a-z 0-9 _ . -
func ValidSession(id string) bool {
	if len(id) == 0 || len(id) > maxSession {
		return false
	}
	for i := range len(id) {
		c := id[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}
