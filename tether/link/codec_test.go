package link

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

func TestMessageErrors(t *testing.T) {
	if _, err := ReadMessage(strings.NewReader("")); err != io.EOF {
		t.Errorf("between messages: %v", err)
	}
	for what, c := range map[string]struct {
		data  string
		cause error
		words string
	}{
		"torn length": {"\x00\x00", io.ErrUnexpectedEOF, "length"},
		"torn text":   {"\x00\x00\x00\x05ab", io.ErrUnexpectedEOF, "2 of 5 bytes"},
		"too long":    {"\x00\x10\x00\x01", nil, "1048577 bytes, the limit is 1048576"},
	} {
		_, err := ReadMessage(strings.NewReader(c.data))
		if err == nil || !strings.Contains(err.Error(), c.words) || c.cause != nil && !errors.Is(err, c.cause) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := WriteMessage(io.Discard, strings.Repeat("x", MaxMessage+1)); err == nil {
		t.Error("a message over the limit was sent")
	}
}

func TestCommands(t *testing.T) {
	for text, want := range map[string]Command{
		"info-get guestinfo.ip":   {CommandInfoGet, "guestinfo.ip", ""},
		"info-set guestinfo.x ":   {CommandInfoSet, "guestinfo.x", ""},
		"info-set guestinfo.x":    {CommandInfoSet, "guestinfo.x", ""},
		"info-set k a  b\nc\x00 ": {CommandInfoSet, "k", "a  b\nc\x00 "},
		"instantclone.freeze":     {CommandFreeze, "", ""},
		"cvm.time":                {CommandTime, "", ""},
	} {
		if got, err := ParseCommand(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for text, words := range map[string]string{
		"":                                     `unknown name ""`,
		"log hello":                            `unknown name "log"`,
		"info-get":                             "0 bytes, not 1 to 256",
		"info-get a b":                         "character 1",
		"info-set  v":                          "0 bytes",
		"cvm.time now":                         "no arguments",
		"info-get " + strings.Repeat("k", 257): "257 bytes",
	} {
		if _, err := ParseCommand(text); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: %v, want %q", text, err, words)
		}
	}
	if _, err := ParseReply("0 No value found"); !errors.Is(err, ErrNoValue) {
		t.Errorf("no value: %v", err)
	}
	if _, err := ParseReply("0 Permission denied"); err == nil || errors.Is(err, ErrNoValue) {
		t.Errorf("refusal: %v", err)
	}
}

func TestRecords(t *testing.T) {
	at := time.Unix(1700000000, 5)
	long := bytes.Repeat([]byte("x"), 2*MaxRecord+1)
	log := AppendRecord(nil, Record{StreamStdout, at, long})
	whole := int64(len(log))
	r := NewRecordReader(bytes.NewReader(log))
	var got []byte
	for n := 0; ; n++ {
		rec, err := r.Next()
		if err == io.EOF {
			if n != 3 {
				t.Errorf("%d records", n)
			}
			break
		}
		if err != nil || !rec.Time.Equal(at) || rec.Stream != StreamStdout {
			t.Fatalf("record %v at %v, %v", rec.Stream, rec.Time, err)
		}
		got = append(got, rec.Payload...)
	}
	if !bytes.Equal(got, long) {
		t.Errorf("%d bytes came back of %d", len(got), len(long))
	}
	for cut := range RecordHeader + 5 {
		torn := append(bytes.Clone(log), AppendRecord(nil, Record{StreamStderr, at, []byte("torn!")})[:cut]...)
		good, err := ScanRecords(bytes.NewReader(torn))
		if good != whole || (cut == 0) != (err == nil) || cut > 0 && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes of a record: good until %d of %d, %v", cut, good, whole, err)
		}
	}
	for what, bad := range map[string]string{
		"stream":     "\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"reserved":   "\x01\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"length":     "\x01\x00\x00\x00\x00\x01\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00",
		"run marker": "\x03\x00\x00\x00\x00\x00\x00\x41\x00\x00\x00\x00\x00\x00\x00\x00x",
		"time":       "\x01\x00\x00\x00\x00\x00\x00\x00\xff\x00\x00\x00\x00\x00\x00\x00",
	} {
		if good, err := ScanRecords(strings.NewReader(string(log) + bad)); good != whole || err == nil {
			t.Errorf("%s: good until %d, %v", what, good, err)
		}
	}
}

func TestSpecOfNewerPeer(t *testing.T) {
	s, err := DecodeSpec(`{"hostname": "h", "readOnlyRoot": true, "gpu": {"count": 2}, "process": {"args": ["a"], "nice": 5}, "mode": "PARKED"}`)
	if err != nil || s.Hostname != "h" || !s.ReadOnlyRoot || s.Process.Args[0] != "a" || s.Mode != tetherv1.Mode_CONTAINER {
		t.Errorf("%v, %v", s, err)
	}
	for _, bad := range []string{"", "[]", `{"hostname": 5}`, `{"hostname": "\xff"}`, "{" + strings.Repeat(" ", MaxValue) + "}"} {
		if _, err := DecodeSpec(bad); err == nil {
			t.Errorf("%.40q was taken for a spec", bad)
		}
	}
	if _, err := EncodeSpec(&tetherv1.Spec{Hostname: strings.Repeat("x", MaxValue)}); err == nil {
		t.Error("a spec over the limit was encoded")
	}
	text, err := EncodeStatus(&tetherv1.Status{State: tetherv1.State_RUNNING, Pid: 7})
	if err != nil || text != `{"state":"RUNNING","pid":7}` {
		t.Errorf("%s, %v", text, err)
	}
}

func TestValidSession(t *testing.T) {
	for id, want := range map[string]bool{
		"main": true, "a.B-9_": true, strings.Repeat("x", 64): true,
		"": false, "a/b": false, "ä": false, "a b": false, strings.Repeat("x", 65): false, "a\x00": false,
	} {
		if ValidSession(id) != want {
			t.Errorf("%q: %v", id, !want)
		}
	}
}

// TestSkip counts what a stream says is missing.
func TestSkip(t *testing.T) {
	f := frameReader{r: strings.NewReader("\x01\x00\x00\x02ab" + string(appendSkipFrame(nil, 1000)) + "\x01\x00\x00\x01c\x02\x00\x00\x00")}
	got, err := io.ReadAll(&f)
	if string(got) != "abc" || err != nil || f.read != 3 || f.skipped != 1000 {
		t.Errorf("%q with %d read and %d skipped, %v", got, f.read, f.skipped, err)
	}
}

// TestFrames shows the three ways in which frames end.
func TestFrames(t *testing.T) {
	var sent bytes.Buffer
	w := frameWriter{w: &sent}
	if _, err := w.Write(bytes.Repeat([]byte("x"), chunk+1)); err != nil {
		t.Fatal(err)
	}
	data := sent.String()
	_ = w.end()
	end := sent.String()[len(data):]
	for what, c := range map[string]struct {
		tail  string
		check func(error) bool
	}{
		"end":       {end, func(err error) bool { return err == nil }},
		"loss":      {"", func(err error) bool { return errors.Is(err, ErrLost) && !errors.Is(err, io.EOF) }},
		"torn":      {end[:3], func(err error) bool { return errors.Is(err, ErrLost) }},
		"error":     {string(appendErrorFrame(nil, status.Error(codes.DataLoss, "ring"))), func(err error) bool { return status.Code(err) == codes.DataLoss }},
		"no skip":   {string(appendSkipFrame(nil, 0)), func(err error) bool { return err != nil && !errors.Is(err, ErrLost) }},
		"malformed": {"\x09\x00\x00\x00", func(err error) bool { return err != nil && !errors.Is(err, ErrLost) }},
		"empty":     {"\x01\x00\x00\x00", func(err error) bool { return err != nil && !errors.Is(err, ErrLost) }},
	} {
		got, err := io.ReadAll(&frameReader{r: strings.NewReader(data + c.tail)})
		if len(got) != chunk+1 || !c.check(err) {
			t.Errorf("%s: %d bytes, %v", what, len(got), err)
		}
	}
}
