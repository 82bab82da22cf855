package peer

import (
	"strings"
	"testing"
)

const smaps = `7f0000000000-7f0020000000 rw-p 00000000 00:1b 7                          /dev/shm/a b/t.ram
Size:             524288 kB
KernelPageSize:        4 kB
Rss:               20480 kB
Private_Clean:     18000 kB
Private_Dirty:      2048 kB
Anonymous:          1024 kB
VmFlags: rd wr mr mw me ac sd
7f0030000000-7f0030400000 rw-p 00000000 00:00 0 
Size:               4096 kB
Private_Clean:         0 kB
Private_Dirty:      3072 kB
Anonymous:          3072 kB
7f0040000000-7f0060000000 rw-p 00000000 00:00 0 
Size:             524288 kB
Private_Clean:         0 kB
Private_Dirty:     10240 kB
Anonymous:         10240 kB
`

func TestUsageTellsTheGuestFromQEMU(t *testing.T) {
	all, err := readMappings(strings.NewReader(smaps))
	if err != nil || len(all) != 3 || all[0].name != "/dev/shm/a b/t.ram" {
		t.Fatalf("readMappings = %+v, %v", all, err)
	}
	if m := usageOf(all, "t.ram", 512); m.GuestMiB != 1 || m.OverheadMiB != 13 {
		t.Errorf("of a file: %+v, want 1 of the guest and 13 beside", m)
	}
	if m := usageOf(all, "", 512); m.GuestMiB != 10 || m.OverheadMiB != 5 {
		t.Errorf("of anonymous memory: %+v, want 10 of the guest and 5 beside", m)
	}
}

func TestReadMappingsRefuses(t *testing.T) {
	for _, text := range []string{"Size: 4 kB\n", "0-1 rw-p 0 0 0\nSize: x kB\n", "0-1 rw-p 0 0 0\nSize:\n"} {
		if all, err := readMappings(strings.NewReader(text)); err == nil {
			t.Errorf("readMappings(%q) = %+v", text, all)
		}
	}
}

func TestDecodeFaults(t *testing.T) {
	minor, major, err := decodeFaults("12 (a (b) c) S 1 1 1 0 -1 4194560 3456 0 78 0 5 3\n")
	if err != nil || minor != 3456 || major != 78 {
		t.Errorf("decodeFaults = %d, %d, %v; want 3456 and 78", minor, major, err)
	}
	for _, text := range []string{"", "12 no name", "12 (a) S 1", "12 (a) S 1 1 1 0 -1 0 x 0 78 0"} {
		if _, _, err := decodeFaults(text); err == nil {
			t.Errorf("decodeFaults(%q) succeeds", text)
		}
	}
}
