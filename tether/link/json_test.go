package link

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// fill sets every field of m, and every one of the messages in it, to something that is not zero.
func fill(m protoreflect.Message, random *rand.Rand) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if of := f.ContainingOneof(); of != nil && m.WhichOneof(of) != nil && random.IntN(2) == 0 {
			continue // another one of them is set
		}
		one := func() protoreflect.Value {
			if f.Kind() == protoreflect.MessageKind {
				var v protoreflect.Value
				if f.IsList() {
					v = m.Mutable(f).List().NewElement()
				} else {
					v = m.NewField(f)
				}
				fill(v.Message(), random)
				return v
			}
			return scalar(f, random)
		}
		if !f.IsList() {
			m.Set(f, one())
			continue
		}
		for range 1 + random.IntN(3) {
			m.Mutable(f).List().Append(one())
		}
	}
}

func scalar(f protoreflect.FieldDescriptor, random *rand.Rand) protoreflect.Value {
	n := random.Uint64() >> random.IntN(63)
	switch f.Kind() {
	case protoreflect.StringKind:
		texts := []string{"a", "ä€😀", "\"\\/\b\f\n\r\t\x01\x7f<>&\u2028", strings.Repeat("x", 1000)}
		return protoreflect.ValueOfString(texts[random.IntN(len(texts))])
	case protoreflect.BytesKind:
		b := make([]byte, 1+random.IntN(5))
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		return protoreflect.ValueOfBytes(b)
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(1 + random.IntN(9))) // some have no name
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(n) | 1)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(n) | 1)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n) | 1)
	default:
		return protoreflect.ValueOfUint64(n | 1)
	}
}

// TestDescriptionsAreWhole holds the codec against protojson, both ways, with every field set.
func TestDescriptionsAreWhole(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		compareJSON(t, &tetherv1.Spec{}, random, EncodeSpec, DecodeSpec)
		compareJSON(t, &tetherv1.Status{}, random, EncodeStatus, DecodeStatus)
		compareJSON(t, &tetherv1.HealthStatus{}, random, EncodeHealth, DecodeHealth)
		compareJSON(t, &tetherv1.ClockStatus{}, random, EncodeClock, DecodeClock)
	}
}

func compareJSON[M proto.Message](t *testing.T, m M, random *rand.Rand, encode func(M) (string, error), decode func(string) (M, error)) {
	t.Helper()
	fill(m.ProtoReflect(), random)
	text, err := encode(m)
	if err != nil {
		t.Fatal(err)
	}
	back := m.ProtoReflect().New().Interface()
	if err := protojson.Unmarshal([]byte(text), back); err != nil || !proto.Equal(back, m) {
		t.Fatalf("%s\nread by protojson: %v, want %v, %v", text, back, m, err)
	}
	for _, o := range []protojson.MarshalOptions{{}, {Multiline: true}, {UseProtoNames: true, UseEnumNumbers: true}} {
		theirs, err := o.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decode(string(theirs)); err != nil || !proto.Equal(got, m) {
			t.Fatalf("%s\nread as %v, want %v, %v", theirs, got, m, err)
		}
	}
}

// FuzzJSON: the JSON that protojson takes is taken, with the same result. It also takes some that is none, as "1e".
func FuzzJSON(f *testing.F) {
	f.Add(`{"stop_signal": "9", "stopGraceSeconds": 1e1, "process": null, "mode": 1, "x": [{"y": [true, false, null, -0.5e-3]}]}`)
	f.Add(`{"hostname": "\ud83d\ude00\u00e4\"\\\/", "hosts": [{"names": [ ]}, {}]}`)
	f.Add(`{"process": {"rlimits": [{"soft": "18446744073709551615", "hard": 18446744073709551615}], "args": ["a", "b"]}}`)
	f.Add(`{"mounts": [{"nfs": {}}, {"volume": null, "tmpfs": {"mode": 1777}}], "files": [{"content": "-_8"}, {"content": "AA=="}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		want, got := &tetherv1.Spec{}, &tetherv1.Spec{}
		if !json.Valid([]byte(text)) || (protojson.UnmarshalOptions{DiscardUnknown: true, RecursionLimit: maxDepth / 2}).Unmarshal([]byte(text), want) != nil {
			return
		}
		if err := decodeJSON("spec", text, got, describeSpec); err != nil && len(text) <= MaxValue {
			t.Fatalf("%q: %v; protojson reads %v", text, err, want)
		} else if err == nil && !proto.Equal(got, want) {
			t.Fatalf("%q: %v, want %v", text, got, want)
		}
	})
}

func TestMalformedJSON(t *testing.T) {
	for _, text := range []string{
		"", "null", "{", "{}x", `{"id"}`, `{"id":}`, `{"id":"`, `{"id":"\x"}`, `{"id":"\u12"}`, `{"id":"\ud800"}`, `{"id":"\ud800\u0041"}`,
		"{\"id\":\"\n\"}", `{"id":"a",}`, `{"x":tru}`, `{"stopSignal":1.5}`, `{"stopSignal":2147483648}`, `{"stopGraceSeconds":-1}`,
		`{"files":[{"content":"a"}]}`, `{"readOnlyRoot":1}`, `{"hosts":{}}`, `{"hosts":[null]}`, `{"mode":"CONTAINER"`, `{"x":` + strings.Repeat("[", 2*maxDepth),
	} {
		if s, err := DecodeSpec(text); err == nil {
			t.Errorf("%q was taken for %v", text, s)
		}
	}
}
