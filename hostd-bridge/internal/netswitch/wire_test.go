package netswitch

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"reflect"
	"syscall"
	"testing"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

func TestMessages(t *testing.T) {
	want := Request{Op: OpApply, Config: &Config{Name: "n", Gateways: []netip.Prefix{netip.MustParsePrefix("172.17.0.1/16")}, Endpoints: []Endpoint{{
		VM: "vm-1", MAC: "02:42:ac:11:00:02", Addresses: []netip.Addr{netip.MustParseAddr("172.17.0.2")}, Publish: []hostapi.Publication{{Protocol: "tcp", HostIP: netip.IPv4Unspecified(), Port: 80}},
	}}}}
	var b bytes.Buffer
	if err := WriteMessage(&b, want); err != nil {
		t.Fatal(err)
	}
	whole := bytes.Clone(b.Bytes())
	var got Request
	if err := ReadMessage(&b, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v is read as %+v, %v", want, got, err)
	}
	if err := ReadMessage(bytes.NewReader(whole[:len(whole)-1]), &got); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a message that is cut off: %v", err)
	}
	if err := ReadMessage(bytes.NewReader([]byte{0xff, 0, 0, 0}), &got); err == nil {
		t.Error("a message without an end is taken")
	}
	if f := (&Failure{Errno: syscall.EADDRINUSE, Text: "taken"}); !errors.Is(f, syscall.EADDRINUSE) || errors.Unwrap(&Failure{}) != nil {
		t.Error("a failure is not its errno")
	}
}

// FuzzMessage: what is read as a request is written and read again as the same.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"op":"apply","config":{"name":"n","gateways":["172.17.0.1/16"],"endpoints":[{"vm":"v","mac":"m","addresses":["::1"]}]}}`))
	f.Add([]byte(`{"op":"stop"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var r Request
		if ReadMessage(bytes.NewReader(append([]byte{0, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)), &r) != nil {
			return
		}
		var b bytes.Buffer
		if err := WriteMessage(&b, r); err != nil {
			t.Fatal(err)
		}
		once := bytes.Clone(b.Bytes())
		var again Request
		if err := ReadMessage(&b, &again); err != nil {
			t.Fatal(err)
		}
		if err := WriteMessage(&b, again); err != nil || !bytes.Equal(b.Bytes(), once) {
			t.Errorf("%q is then %q", once, b.Bytes())
		}
	})
}
