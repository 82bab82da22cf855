package main

import (
	"slices"
	"testing"
)

func TestParse(t *testing.T) {
	o, err := parse([]string{"-dirty", "1,64", "-burst", "3", "-n", "5", "-out", "x"})
	if err != nil || !slices.Equal(o.sizes.dirtyMiB, []int{1, 64}) || !slices.Equal(o.sizes.burst, []int{3}) || o.rounds != 5 || o.out != "x" {
		t.Errorf("parse = %+v, %v", o, err)
	}
	if o, err = parse([]string{"-quick"}); err != nil || o.out != "" || o.budget != quickBudget || o.rounds != quickRounds {
		t.Errorf("quick: %+v, %v", o, err)
	}
	// A part of the groups must not replace the results of all.
	if o, err = parse([]string{"-run", "^fork$", "--json"}); err != nil || o.out != "" || !o.json || len(chosen(o)) != 1 {
		t.Errorf("run: %+v, %v", o, err)
	}
	for _, args := range [][]string{{"-dirty", "0"}, {"-dirty", "9999"}, {"-burst", "2,x"}, {"-run", "("}, {"-n", "0"}, {"what"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("parse(%q) succeeds", args)
		}
	}
}

func TestGroupsHaveNamesOfTheirOwn(t *testing.T) {
	seen := map[string]bool{}
	for _, e := range entries() {
		if seen[e.name] || e.build == nil || e.about == "" || e.rounds(30) < 2 {
			t.Errorf("entry %+v", e)
		}
		seen[e.name] = true
	}
}

func TestDecodeLdd(t *testing.T) {
	got := decodeLdd("\tlinux-vdso.so.1 (0x7f)\n\tlibz.so.1 => /lib/libz.so.1 (0x7f)\n\t/lib64/ld-linux.so.2 (0x7f)\n\tlibno.so => not found\n")
	if !slices.Equal(got, []string{"/lib/libz.so.1", "/lib64/ld-linux.so.2"}) {
		t.Errorf("decodeLdd = %q", got)
	}
}
