package link

import (
	"strings"
	"testing"
)

func TestSysctlPath(t *testing.T) {
	for name, want := range map[string]string{
		"net.ipv4.ip_forward":               "net/ipv4/ip_forward",
		"net/ipv4/conf/eth0.1/forwarding":   "net/ipv4/conf/eth0.1/forwarding",
		"kernel.shmmax":                     "kernel/shmmax",
		"vm.overcommit_memory":              "vm/overcommit_memory",
		"kernel.hostname":                   "refused: --hostname",
		"kernel/pid_max":                    "refused: --pids-limit",
		"kernel.panic_on_oops":              "refused: tether",
		"vm.panic_on_oom":                   "refused: tether",
		"kernel":                            "refused: no name",
		"":                                  "refused: no name",
		".":                                 "refused: no name",
		"net..ipv4":                         "refused: no name",
		"net/../kernel/hostname":            "refused: no name",
		"/net/ipv4":                         "refused: no name",
		"net.a/b":                           "refused: no name",
		"net.a\x00b":                        "refused: no name",
		"net." + strings.Repeat("a", 5<<10): "refused: longer",
	} {
		got, err := SysctlPath(name, "1")
		if reason, refused := strings.CutPrefix(want, "refused: "); refused {
			if err == nil || !strings.Contains(err.Error(), reason) {
				t.Errorf("%.40q: %q, %v, want an error with %q", name, got, err, reason)
			}
		} else if got != want || err != nil {
			t.Errorf("%q: %q, %v", name, got, err)
		}
	}
	if _, err := SysctlPath("kernel.core_pattern", "core.%p"); err != nil {
		t.Errorf("a core file: %v", err)
	}
	if _, err := SysctlPath("kernel.core_pattern", " |/bin/sh"); err == nil {
		t.Error("a program for core files is taken")
	}
}

// Whatever a client names, a path stays below /proc/sys.
func FuzzSysctlPath(f *testing.F) {
	for _, seed := range []string{"net.ipv4.ip_forward", "net/../x", "..", "a.b/c", "/"} {
		f.Add(seed, "1")
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		path, err := SysctlPath(name, value)
		if err != nil {
			return
		}
		for part := range strings.SplitSeq(path, "/") {
			if oddPart(part) {
				t.Errorf("%q leads to %q", name, path)
			}
		}
	})
}
