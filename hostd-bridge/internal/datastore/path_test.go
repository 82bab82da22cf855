package datastore

import (
	"errors"
	"path"
	"strings"
	"testing"
)

func TestParsePath(t *testing.T) {
	for in, want := range map[string]string{
		"[local] a/b.vmdk": "a/b.vmdk", "[local]a": "a", "[local] ": ".", "[local]": ".", "[local] /a//b/": "a/b",
		"[local] ./a/./b": "a/b", "[local] [x] y": "[x] y", "[local] ...": "...", "[local] a b": "a b",
	} {
		if got, err := ParsePath(in); got != want || err != nil {
			t.Errorf("%q: %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", "local", "[local", "local] a", "[other] a", "[] a", "[local] ../a", "[local] a/../b", "[local] ..",
		"[local] a\x00b", "[local] " + strings.Repeat("x", 256), "[local] " + strings.Repeat("x/", 3000),
	} {
		if got, err := ParsePath(in); !errors.Is(err, ErrInvalidPath) {
			t.Errorf("%.40q: %q, %v, want an error", in, got, err)
		}
	}
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"[local] a/b", "[local] ../x", "[local]//", "[x] y", "[local] \x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		rel, err := ParsePath(s)
		if err != nil {
			return
		}
		if rel == "" || path.IsAbs(rel) || path.Clean(rel) != rel || rel == ".." || strings.HasPrefix(rel, "../") {
			t.Errorf("%q is %q, which is no path in the store", s, rel)
		}
		if again, err := ParsePath(FormatPath(rel)); err != nil || again != rel {
			t.Errorf("%q becomes %q on a second way: %v", rel, again, err)
		}
	})
}
