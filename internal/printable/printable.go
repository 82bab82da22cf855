// Package printable makes text of guests, images and other programs fit for people: none of it does anything on a terminal.
package printable

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Text is a text that a guest or an image has chosen, as it may be shown on a terminal: control characters, among them those that
// begin escape sequences, are written as \x1b, \u009b or, as JSON writes what is beyond 16 bits, as two of those; what is no UTF-8 as \xff. Lines
// and tabs stay. JSON stays JSON and means the same, as long as it is UTF-8.
func Text(text string) string {
	safe := true
	for _, r := range text {
		if unsafe(r) {
			safe = false
			break
		}
	}
	if safe {
		return text
	}
	var b strings.Builder
	for at, r := range text {
		switch {
		case r == unicode.ReplacementChar && text[at] >= 0x80 && !strings.HasPrefix(text[at:], string(unicode.ReplacementChar)):
			fmt.Fprintf(&b, `\x%02x`, text[at])
		case r == unicode.ReplacementChar || !unsafe(r):
			b.WriteRune(r)
		case r < ' ': // which JSON has nowhere as it is
			fmt.Fprintf(&b, `\x%02x`, r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		}
	}
	return b.String()
}

// Line is Text in one line: what begins a new one, or the next column of a table, is a space.
func Line(text string) string {
	return Text(strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		return r
	}, text))
}

// unsafe reports whether a character does something on a terminal other than show itself. Formats (Cf) turn the direction of text.
func unsafe(r rune) bool {
	if r == '\n' || r == '\t' {
		return false
	}
	return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar
}

// Tail is the end of a text as Text shows it, at most so many bytes.
func Tail(text string, most int) string {
	shown := Text(text)
	cut := max(0, len(shown)-most)
	for cut < len(shown) && !utf8.RuneStart(shown[cut]) {
		cut++
	}
	return shown[cut:]
}
