package unpack

import (
	"errors"
	"testing"
)

func TestCleanName(t *testing.T) {
	for name, want := range map[string]string{
		"a/../b": "b", "a/b/../c": "a/c", "./a/../b": "b", "/a/../b/": "b", "a/./b//c/": "a/b/c", "a/b/../../c": "c", "a/..b/...": "a/..b/...",
		"": "", ".": "", "./": "", "/": "", "a/..": "", "./a/../.": "",
	} {
		if got, err := cleanName(name); got != want || err != nil {
			t.Errorf("cleanName(%q) = %q, %v; want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"..", "../a", "./../a", "/../a", "/..", "a/../../b", "a/../..", ".//../a", "a/b/../../../c", "//..//a"} {
		if got, err := cleanName(name); !errors.Is(err, ErrEscape) {
			t.Errorf("cleanName(%q) = %q, %v; want %v", name, got, err, ErrEscape)
		}
	}
}

// TestCleanNameCopiesNothing: nearly all names are clean but for what tools put before and behind them.
func TestCleanNameCopiesNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() {
		for _, name := range []string{"usr/share/doc/", "./usr/share/doc", "/usr/share/doc", "./"} {
			if _, err := cleanName(name); err != nil {
				t.Fatal(err)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
