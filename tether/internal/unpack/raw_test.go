package unpack

import (
	"fmt"
	"slices"
	"strconv"
)

// raw is one entry as archive/tar would not write it: a header in GNU's format with a name of at most 100 bytes, and the
// content. Each change may set further fields of the header.
func raw(name string, kind byte, content []byte, changes ...func(h []byte)) []byte {
	h := make([]byte, tarBlock)
	copy(h[atName:], name)
	copy(h[atMode:], "0000644\x00")
	copy(h[atUID:], "0000000\x00")
	copy(h[atGID:], "0000000\x00")
	copy(h[atSize:], fmt.Sprintf("%011o\x00", len(content)))
	copy(h[atTime:], fmt.Sprintf("%011o\x00", when.Unix()))
	h[atType] = kind
	copy(h[atMagic:], "ustar  \x00")
	for _, change := range changes {
		change(h)
	}
	copy(h[atSum:], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[atSum:], fmt.Sprintf("%06o\x00 ", sum))
	return slices.Concat(h, content, make([]byte, -len(content)&(tarBlock-1)))
}

// rawPAX is an extended header of records, each a key and a value.
func rawPAX(kind byte, records ...[2]string) []byte {
	var body []byte
	for _, r := range records {
		rest := " " + r[0] + "=" + r[1] + "\n"
		n := len(rest)
		for n != len(rest)+len(strconv.Itoa(n)) {
			n = len(rest) + len(strconv.Itoa(n))
		}
		body = append(body, strconv.Itoa(n)+rest...)
	}
	return raw("PaxHeaders/x", kind, body, ustar)
}

// ustar makes the header one of POSIX.
func ustar(h []byte) { copy(h[atMagic:], "ustar\x0000") }

// tarOf puts raw entries together to a layer.
func tarOf(entries ...[]byte) []byte {
	return append(slices.Concat(entries...), make([]byte, 2*tarBlock)...)
}
