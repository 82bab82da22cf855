package link

import (
	"encoding/base64"
	"strconv"
	"strings"
	"unsafe"
)

// codec is protobuf JSON (protobuf.dev/programming-guides/json) without reflection, for the messages of guestinfo. A
// tether decodes its Spec by code that runs for the first time, and under emulation that is what a boot spends its time
// on: package protojson costs it more than the mount of its disk. The tests hold this against protojson.
//
// It goes either way: with in set it decodes the value of one field into the place that the message's description has
// for it, else it appends all fields that are not zero.
type codec struct {
	in    *jsonReader
	field string // at hand
	found bool   // the description has it

	out   []byte
	comma bool // before the next field
	err   error
}

// describe tells a codec of the fields of a message, in the order of their numbers.
type describe[M any] func(*codec, *M)

func (d describe[M]) decode(in *jsonReader, m *M) {
	in.object(func(name string) {
		if in.word("null") {
			return // as if it were not there
		}
		c := &codec{in: in, field: name}
		if d(c, m); !c.found {
			in.skip(0)
		}
	})
}

func (d describe[M]) encode(c *codec, m *M) {
	c.out, c.comma = append(c.out, '{'), false
	d(c, m)
	c.out, c.comma = append(c.out, '}'), true
}

// visit calls decode when the field is at hand, or encode after its name when it is not zero.
func (c *codec) visit(name string, zero bool, decode, encode func()) {
	switch {
	case c.in != nil:
		if !c.found && (c.field == name || c.field == protoName(name)) {
			c.found = true
			decode()
		}
	case !zero:
		c.separate()
		c.string(name)
		c.out, c.comma = append(c.out, ':'), false
		encode()
		c.comma = true
	}
}

func (c *codec) separate() {
	if c.comma {
		c.out = append(c.out, ',')
	}
	c.comma = true
}

func (c *codec) string(s string) {
	out, err := appendJSONString(c.out, s)
	if c.out = out; err != nil {
		c.err = err
	}
}

// protoName is a field's name in the .proto file, which a decoder takes as well: "stopSignal" is stop_signal.
func protoName(name string) string {
	var b strings.Builder
	for _, c := range []byte(name) {
		if 'A' <= c && c <= 'Z' {
			b.WriteByte('_')
			c += 'a' - 'A'
		}
		b.WriteByte(c)
	}
	return b.String()
}

func (c *codec) text(name string, p *string) {
	c.visit(name, *p == "", func() { *p = c.in.string() }, func() { c.string(*p) })
}

// bytes are base64: a decoder takes the alphabets of RFC 4648, sections 4 and 5, padded or not, as package protojson does.
func (c *codec) bytes(name string, p *[]byte) {
	c.visit(name, len(*p) == 0, func() {
		text, encoding := c.in.string(), base64.StdEncoding
		if strings.ContainsAny(text, "-_") {
			encoding = base64.URLEncoding
		}
		if len(text)%4 != 0 {
			encoding = encoding.WithPadding(base64.NoPadding)
		}
		var err error
		if *p, err = encoding.DecodeString(text); err != nil {
			c.in.fail("malformed base64 of field %s", name)
		}
	}, func() {
		c.out = append(base64.StdEncoding.AppendEncode(append(c.out, '"'), *p), '"')
	})
}

func (c *codec) flag(name string, p *bool) {
	c.visit(name, !*p, func() { *p = c.in.bool() }, func() { c.out = append(c.out, "true"...) })
}

// texts and messages replace what an earlier field of the same name has brought.
func (c *codec) texts(name string, p *[]string) {
	c.visit(name, len(*p) == 0, func() {
		*p = nil
		c.in.array(func() { *p = append(*p, c.in.string()) })
	}, func() {
		c.out = append(c.out, '[')
		for _, s := range *p {
			c.separate()
			c.string(s)
		}
		c.out = append(c.out, ']')
	})
}

// number is in quotes when it has 64 bits, which JavaScript's numbers do not hold.
func number[N int32 | uint32 | int64 | uint64](c *codec, name string, p *N) {
	c.visit(name, *p == 0, func() { *p = parseNumber[N](c.in) }, func() {
		quote := unsafe.Sizeof(*p) == 8
		if quote {
			c.out = append(c.out, '"')
		}
		if *p < 0 {
			c.out = strconv.AppendInt(c.out, int64(*p), 10)
		} else {
			c.out = strconv.AppendUint(c.out, uint64(*p), 10)
		}
		if quote {
			c.out = append(c.out, '"')
		}
	})
}

// parseNumber reads an integer in any notation of JSON: 1000, 1e3, "1000".
func parseNumber[N int32 | uint32 | int64 | uint64](in *jsonReader) N {
	text := in.number()
	if strings.ContainsAny(text, ".eE") {
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			in.fail("malformed number %.40q", text)
		}
		text = strconv.FormatFloat(f, 'f', -1, 64)
	}
	var n N
	var err error
	if bits := int(8 * unsafe.Sizeof(n)); n-1 > n { // unsigned
		var u uint64
		u, err = strconv.ParseUint(text, 10, bits)
		n = N(u)
	} else {
		var i int64
		i, err = strconv.ParseInt(text, 10, bits)
		n = N(i)
	}
	if err != nil {
		in.fail("malformed number %.40q", text)
	}
	return n
}

// enum is a name, or the number of one that this version does not know. An unknown name reads as zero.
func enum[E ~int32](c *codec, name string, p *E, names map[int32]string, values map[string]int32) {
	c.visit(name, *p == 0, func() {
		if c.in.peek() == '"' {
			*p = E(values[c.in.string()])
		} else {
			*p = E(parseNumber[int32](c.in))
		}
	}, func() {
		if known, ok := names[int32(*p)]; ok {
			c.string(known)
		} else {
			c.out = strconv.AppendInt(c.out, int64(*p), 10)
		}
	})
}

func message[M any](c *codec, name string, p **M, d describe[M]) {
	c.visit(name, *p == nil, func() {
		*p = new(M)
		d.decode(c.in, *p)
	}, func() { d.encode(c, *p) })
}

// member is a message that is one of several which exclude each other. It reports whether the field was decoded.
func member[M any](c *codec, name string, p **M, d describe[M]) (decoded bool) {
	before := c.found
	message(c, name, p, d)
	return c.in != nil && c.found && !before
}

func messages[M any](c *codec, name string, p *[]*M, d describe[M]) {
	c.visit(name, len(*p) == 0, func() {
		*p = nil
		c.in.array(func() {
			m := new(M)
			d.decode(c.in, m)
			*p = append(*p, m)
		})
	}, func() {
		c.out = append(c.out, '[')
		for _, m := range *p {
			c.separate()
			d.encode(c, m)
		}
		c.out = append(c.out, ']')
	})
}
