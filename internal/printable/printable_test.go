package printable

import (
	"encoding/json"
	"reflect"
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
		"\u009b31m\x7f":              `\u009b31m\u007f`,
		"\U000e0041tag":              `\udb40\udc41tag`,
		"a\xffb":                     `a\xffb`,
		"kept \uFFFD":                "kept \uFFFD",
		"evil \u202etxt.exe":         `evil \u202etxt.exe`,
	} {
		if got := Text(text); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
}

// FuzzPrintable: nothing that does something on a terminal is left, and text that is safe stays as it is.
func FuzzPrintable(f *testing.F) {
	f.Add("a\x1b[31m\u202e\xff\u009b")
	f.Add("{\"\u202ea\": \"\u009b\u007f\U000e0041\"}\n")
	f.Fuzz(func(t *testing.T, text string) {
		got := Text(text)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool {
			return r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r))
		}) {
			t.Errorf("%q is shown as %q", text, got)
		}
		var before, after any
		if utf8.ValidString(text) && json.Unmarshal([]byte(text), &before) == nil && (json.Unmarshal([]byte(got), &after) != nil || !reflect.DeepEqual(before, after)) {
			t.Errorf("%q is shown as %q, which means something else", text, got)
		}
		if again := Text(got); again != got {
			t.Errorf("%q is shown as %q, and that as %q", text, got, again)
		}
	})
}

func TestTail(t *testing.T) {
	for _, c := range []struct {
		text string
		most int
		want string
	}{{"abc", 5, "abc"}, {"abc", 2, "bc"}, {"a\x1b", 3, "x1b"}, {"aü", 1, ""}, {"aü", 2, "ü"}, {"", 0, ""}} {
		if got := Tail(c.text, c.most); got != c.want {
			t.Errorf("the last %d of %q are %q, want %q", c.most, c.text, got, c.want)
		}
	}
}

func TestLine(t *testing.T) {
	if got, want := Line("a\nb\tc\x1b"), `a b c\x1b`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
