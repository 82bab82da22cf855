package guest

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"":                           "",
		"two lines\n\tand a tab":     "two lines\n\tand a tab",
		"grüße, 世界":                  "grüße, 世界",
		"\x1b]0;owned\x07\x1b[2Jx\r": `\x1b]0;owned\x07\x1b[2Jx\x0d`,
		"\u009b31m":                  `\x9b31m`,
		"a\xffb":                     `a\xffb`,
		"kept \uFFFD":                "kept \uFFFD",
		"evil \u202etxt.exe":         `evil \u202etxt.exe`,
	} {
		if got := Printable(text); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
}

// FuzzPrintable: nothing that does something on a terminal is left, and text that is safe stays as it is.
func FuzzPrintable(f *testing.F) {
	f.Add("a\x1b[31m\u202e\xff\u009b")
	f.Fuzz(func(t *testing.T, text string) {
		got := Printable(text)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool {
			return r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r))
		}) {
			t.Errorf("%q is shown as %q", text, got)
		}
		if again := Printable(got); again != got {
			t.Errorf("%q is shown as %q, and that as %q", text, got, again)
		}
	})
}
