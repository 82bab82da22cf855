package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"google.golang.org/protobuf/proto"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

func FuzzMessage(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02hi\x00\x00\x00\x00"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		for {
			text, err := ReadMessage(r)
			if err != nil {
				return
			}
			var again bytes.Buffer
			if err := WriteMessage(&again, text); err != nil {
				t.Fatal(err)
			}
			if back, err := ReadMessage(&again); err != nil || back != text {
				t.Fatalf("%q came back as %q, %v", text, back, err)
			}
		}
	})
}

func FuzzCommand(f *testing.F) {
	for _, s := range []string{"info-get guestinfo.ip", "info-set k a b", "info-set k", "instantclone.freeze", "cvm.time", "info-get ", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseCommand(text)
		if err != nil {
			return
		}
		if back, err := ParseCommand(c.String()); err != nil || back != c {
			t.Fatalf("%+v came back as %+v, %v", c, back, err)
		}
	})
}

func FuzzReply(f *testing.F) {
	for _, s := range []string{"1 value", "1 ", "1", "0 No value found", "0", "2 x", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		value, err := ParseReply(text)
		var refusal *RPCIError
		switch {
		case err == nil:
			if back, err := ParseReply(ReplyOK(value)); err != nil || back != value {
				t.Fatalf("%q came back as %q, %v", value, back, err)
			}
		case errors.As(err, &refusal):
			if _, err := ParseReply(ReplyError(refusal.Why)); !errors.Is(err, refusal) {
				t.Fatalf("%q came back as %v", refusal.Why, err)
			}
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add(AppendRecord(AppendRecord(nil, Record{Stream: StreamRun}), Record{Stream: StreamStdout, Payload: []byte("hello")}))
	f.Add([]byte("\x01\x00\x00\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var again []byte
		r := NewRecordReader(bytes.NewReader(data))
		rec, err := r.Next()
		for ; err == nil; rec, err = r.Next() {
			again = AppendRecord(again, rec)
		}
		if !bytes.HasPrefix(data, again) {
			t.Fatalf("% x came back as % x", data, again)
		}
		good, scanErr := ScanRecords(bytes.NewReader(data))
		if good != int64(len(again)) || (scanErr == nil) != (err == io.EOF) {
			t.Fatalf("scan found %d good bytes, %v; reading found %d, %v", good, scanErr, len(again), err)
		}
	})
}

func FuzzPreface(f *testing.F) {
	f.Add(appendPreface(nil, ourVersions()))
	f.Add([]byte("GET / HT"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) != prefaceLength {
			return
		}
		v, err := parsePreface([prefaceLength]byte(data))
		if err == nil && !bytes.Equal(appendPreface(nil, v), data) {
			t.Fatalf("% x came back as % x", data, appendPreface(nil, v))
		}
	})
}

func FuzzStreamHeader(f *testing.F) {
	f.Add(appendStreamHeader(nil, streamHeader{kindStdout, "main", -1}))
	f.Add(appendStreamHeader(nil, streamHeader{kindUpload, "a", 0}))
	f.Add(appendStreamHeader(nil, streamHeader{kindTCP, "127.0.0.1:80", 0}))
	f.Add(appendStreamHeader(nil, streamHeader{kindUDP, "[fe80::1%eth0]:53", 0}))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := readStreamHeader(bytes.NewReader(data))
		if err == nil && !bytes.HasPrefix(data, appendStreamHeader(nil, h)) {
			t.Fatalf("% x came back as % x", data, appendStreamHeader(nil, h))
		}
	})
}

func FuzzStreamReply(f *testing.F) {
	f.Add(appendReply(nil, reply{0, "", 5, 6}))
	f.Add(appendReply(nil, reply{5, "no such session", 0, 0}))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := readReply(bytes.NewReader(data))
		if err == nil && !bytes.HasPrefix(data, appendReply(nil, r)) {
			t.Fatalf("% x came back as % x", data, appendReply(nil, r))
		}
	})
}

// FuzzFrames reads frames, and asks that only an end frame is an end of file.
func FuzzFrames(f *testing.F) {
	var whole bytes.Buffer
	w := frameWriter{w: &whole}
	_, _ = w.Write([]byte("hello"))
	_ = w.end()
	f.Add(whole.Bytes())
	f.Add(appendErrorFrame(nil, errors.New("x")))
	f.Add(appendSkipFrame(nil, 1<<40))
	f.Fuzz(func(t *testing.T, data []byte) {
		rest := bytes.NewReader(data)
		got, err := io.ReadAll(&frameReader{r: rest})
		if err != nil {
			return
		}
		read := data[:len(data)-rest.Len()]
		if len(read) < frameHeaderLength || !bytes.Equal(read[len(read)-frameHeaderLength:], []byte{byte(frameEnd), 0, 0, 0}) {
			t.Fatalf("% x ended after %d bytes with no end frame", data, len(got))
		}
	})
}

func FuzzSpec(f *testing.F) {
	f.Add(`{"id":"00","process":{"args":["sh"],"tty":true},"later":{"x":1},"mode":"LATER"}`)
	f.Add(`{"hosts":[{"address":"::1","names":["a"]}]}`)
	f.Add(`{"mounts":[{"target":"/v","volume":{"serial":"vol1"}},{"tmpfs":{"sizeBytes":"1"}}],"files":[{"path":"/f","content":"YQ=="}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := DecodeSpec(text)
		if err != nil {
			return
		}
		encoded, err := EncodeSpec(s)
		if err != nil {
			return // longer than a value may be
		}
		if back, err := DecodeSpec(encoded); err != nil || !proto.Equal(back, s) {
			t.Fatalf("%v came back as %v, %v", s, back, err)
		}
	})
}

func FuzzStatus(f *testing.F) {
	text, err := EncodeStatus(&tetherv1.Status{State: tetherv1.State_EXITED, Exit: &tetherv1.Exit{Code: 137, Signal: 9}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := DecodeStatus(text)
		if err != nil {
			return
		}
		encoded, err := EncodeStatus(s)
		if err != nil {
			return
		}
		if back, err := DecodeStatus(encoded); err != nil || !proto.Equal(back, s) {
			t.Fatalf("%v came back as %v, %v", s, back, err)
		}
	})
}

// FuzzDatagrams: what is read can be written again.
func FuzzDatagrams(f *testing.F) {
	f.Add([]byte("\x00\x02hi\x00\x00\x00\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, buf := bytes.NewReader(data), make([]byte, maxDatagram)
		var again []byte
		for {
			n, err := readDatagram(r, buf)
			if err != nil {
				break
			}
			again = append(binary.BigEndian.AppendUint16(again, uint16(n)), buf[:n]...)
		}
		if !bytes.HasPrefix(data, again) {
			t.Fatalf("% x came back as % x", data, again)
		}
	})
}
