package guest

import (
	"fmt"
	"strings"
	"unicode"
)

// Printable is a text that a guest or an image has chosen, as it may be shown on a terminal: control characters, among them those that
// begin escape sequences, are written as \x1b, and what is no UTF-8 as \xff. Lines and tabs stay.
func Printable(text string) string {
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
		case r != unicode.ReplacementChar && unsafe(r) && r <= 0xff:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r != unicode.ReplacementChar && unsafe(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// unsafe reports whether a character does something on a terminal other than show itself. Formats (Cf) turn the direction of text.
func unsafe(r rune) bool {
	if r == '\n' || r == '\t' {
		return false
	}
	return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar
}
