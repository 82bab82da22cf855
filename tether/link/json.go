package link

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds how deep the value of an unknown field may nest.
const maxDepth = 100

// jsonReader reads JSON (RFC 8259) front to back. After its first error it reads nothing.
type jsonReader struct {
	text string
	at   int
	err  error
}

func (r *jsonReader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("byte %d: "+format, append([]any{r.at}, args...)...)
	}
}

// peek returns the next byte that is no white space, 0 at the end and after an error.
func (r *jsonReader) peek() byte {
	for r.err == nil && r.at < len(r.text) {
		switch c := r.text[r.at]; c {
		case ' ', '\t', '\n', '\r':
			r.at++
		default:
			return c
		}
	}
	return 0
}

func (r *jsonReader) expect(c byte) {
	if r.peek() != c {
		r.fail("%q is missing", c)
		return
	}
	r.at++
}

// word consumes a literal name if it comes next.
func (r *jsonReader) word(w string) bool {
	if r.peek(); r.err == nil && strings.HasPrefix(r.text[r.at:], w) {
		r.at += len(w)
		return true
	}
	return false
}

// list reads what stands between two brackets, separated by commas.
func (r *jsonReader) list(open, end byte, each func()) {
	r.expect(open)
	if r.peek() == end {
		r.at++
		return
	}
	for r.err == nil {
		each()
		if r.peek() == end {
			r.at++
			return
		}
		r.expect(',')
	}
}

func (r *jsonReader) object(each func(name string)) {
	r.list('{', '}', func() {
		name := r.string()
		r.expect(':')
		each(name)
	})
}

func (r *jsonReader) array(each func()) { r.list('[', ']', each) }

func (r *jsonReader) bool() bool {
	if r.word("true") {
		return true
	}
	if !r.word("false") {
		r.fail("neither true nor false")
	}
	return false
}

// number returns the text of a number, which may be in quotes.
func (r *jsonReader) number() string {
	if r.peek() == '"' {
		return r.string()
	}
	begin := r.at
	for r.err == nil && r.at < len(r.text) && strings.IndexByte("+-.0123456789eE", r.text[r.at]) >= 0 {
		r.at++
	}
	if begin == r.at {
		r.fail("no number")
		return "" // an escape that is cut off leaves at behind the text's end
	}
	return r.text[begin:r.at]
}

func (r *jsonReader) string() string {
	r.expect('"')
	var unescaped []byte
	for begin := r.at; r.err == nil; r.at++ {
		if r.at >= len(r.text) {
			r.fail("a string does not end")
			break
		}
		switch c := r.text[r.at]; {
		case c == '"':
			s := r.text[begin:r.at]
			r.at++
			if unescaped != nil {
				s = string(append(unescaped, s...))
			}
			if !utf8.ValidString(s) {
				r.fail("a string is not UTF-8")
			}
			return s
		case c == '\\':
			unescaped = r.escape(append(unescaped, r.text[begin:r.at]...))
			begin = r.at + 1
		case c < ' ':
			r.fail("a control character in a string")
		}
	}
	return ""
}

// escape appends what a backslash and the following characters stand for, and goes to the last of them.
func (r *jsonReader) escape(b []byte) []byte {
	const escapes, meaning = `"\/bfnrt`, "\"\\/\b\f\n\r\t"
	if r.at++; r.at < len(r.text) {
		if i := strings.IndexByte(escapes, r.text[r.at]); i >= 0 {
			return append(b, meaning[i])
		}
	}
	c := r.unicode()
	if utf16.IsSurrogate(c) {
		if r.at++; !strings.HasPrefix(r.text[min(r.at, len(r.text)):], `\`) {
			r.fail("half a surrogate pair")
			return b
		}
		r.at++
		c = utf16.DecodeRune(c, r.unicode())
		if c == utf8.RuneError {
			r.fail("half a surrogate pair")
		}
	}
	return utf8.AppendRune(b, c)
}

// unicode reads "uXXXX" and stops at its last character.
func (r *jsonReader) unicode() rune {
	if r.at+5 > len(r.text) || r.text[r.at] != 'u' {
		r.fail("unknown escape in a string")
		return 0
	}
	n, err := strconv.ParseUint(r.text[r.at+1:r.at+5], 16, 16)
	if err != nil {
		r.fail("unknown escape in a string")
	}
	r.at += 4
	return rune(n)
}

// skip passes over any value.
func (r *jsonReader) skip(depth int) {
	if depth > maxDepth {
		r.fail("values nest deeper than %d", maxDepth)
	}
	switch c := r.peek(); {
	case c == '{':
		r.object(func(string) { r.skip(depth + 1) })
	case c == '[':
		r.array(func() { r.skip(depth + 1) })
	case c == '"':
		r.string()
	case r.word("null"), r.word("true"), r.word("false"):
	default:
		r.number()
	}
}

// end returns the first error. Nothing may follow the value.
func (r *jsonReader) end() error {
	if r.peek(); r.err == nil && r.at < len(r.text) {
		r.fail("something follows the value")
	}
	return r.err
}

var errUTF8 = errors.New("a string is not UTF-8")

// appendJSONString appends s in quotes.
func appendJSONString(b []byte, s string) ([]byte, error) {
	if !utf8.ValidString(s) {
		return b, errUTF8
	}
	b = append(b, '"')
	for _, c := range []byte(s) {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ':
			b = append(b, '\\', 'u', '0', '0', '0'+c>>4, "0123456789abcdef"[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"'), nil
}
