package process

import (
	"slices"
	"testing"
)

func TestResolve(t *testing.T) {
	a := accounts{
		users:  []passwdEntry{{name: "root", home: "/root"}, {name: "ann", home: "/home/ann", uid: 1000, gid: 1001}},
		groups: []groupEntry{{"root", 0, nil}, {"ann", 1001, nil}, {"staff", 50, []string{"ann", "root"}}},
	}
	for _, test := range []struct {
		spec     string
		extra    []string
		uid, gid uint32
		groups   []uint32
		home     string
	}{
		{"", nil, 0, 0, []uint32{50, 0}, "/root"},
		{"ann", nil, 1000, 1001, []uint32{50, 1001}, "/home/ann"},
		{"1000", []string{"7", "staff"}, 1000, 1001, []uint32{50, 7, 1001}, "/home/ann"},
		{"ann:staff", nil, 1000, 50, []uint32{50}, "/home/ann"},
		{"1234", nil, 1234, 0, []uint32{0}, ""},
		{"1234:5678", nil, 1234, 5678, []uint32{5678}, ""},
		{":50", nil, 0, 50, []uint32{50}, "/root"},
	} {
		got, err := a.resolve(test.spec, test.extra)
		if err != nil || got.uid != test.uid || got.gid != test.gid || !slices.Equal(got.groups, test.groups) || got.home != test.home {
			t.Errorf("%q %v: %+v, %v", test.spec, test.extra, got, err)
		}
	}
	for _, spec := range []string{"eve", "ann:eves", "99999999999", "-1"} {
		if got, err := a.resolve(spec, nil); err == nil {
			t.Errorf("%q: %+v", spec, got)
		}
	}
}

func TestEnvironment(t *testing.T) {
	got := environment([]string{"A=1", "PATH=/x", "A=2", "bad", "=worse", "E="}, "box", "/home/ann", true)
	want := []string{"PATH=/x", "HOSTNAME=box", "TERM=xterm", "HOME=/home/ann", "A=2", "E="}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestIsOOMKill(t *testing.T) {
	for record, want := range map[string]bool{
		"3,812,10502763,-;Out of memory: Killed process 42 (awk) total-vm:219596kB\n":                           true,
		"3,813,10502763,-;Memory cgroup out of memory: Killed process 42 (awk) total-vm:219596kB\n SUBSYSTEM=x": true,
		"12,814,10502763,-;Out of memory: Killed process 42 (said by a process)\n":                              false,
		"6,815,10502763,-;random: crng init done\n":                                                             false,
		"": false, ";": false, "x;Out of memory: Killed process 1": false,
	} {
		if isOOMKill(record) != want {
			t.Errorf("%q: %v", record, !want)
		}
	}
}

const stat = "42 (a (b) c) S 1 42 42 34816 42 4194304 1 0 0 0 7 5 0 0 20 0 1 0 300 4096 25 18446744073709551615 1 1 0 0 0"

func TestParseStat(t *testing.T) {
	p, err := parseStat(stat)
	if err != nil {
		t.Fatal(err)
	}
	if p.Ppid != 1 || p.State != "S" || p.CpuTicks != 12 || p.Tty != "pts/0" || p.StartUnixNano != 3e9 || p.Command != "[a (b) c]" {
		t.Errorf("%v", p)
	}
	if p.Name != "a (b) c" || p.Foreground != 42 || p.Priority != 20 || p.Nice != 0 || p.Threads != 1 || p.VirtualBytes != 4096 {
		t.Errorf("%v", p)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add(stat)
	f.Add(")(")
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := parseStat(text); (p == nil) == (err == nil) {
			t.Errorf("%v, %v", p, err)
		}
	})
}
