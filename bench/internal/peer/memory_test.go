package peer

import (
	"testing"

	"github.com/containervm/containervm/internal/smaps"
)

func TestUsageTellsTheGuestFromQEMU(t *testing.T) {
	all := []smaps.Mapping{
		{Name: "/dev/shm/a b/t.ram", Size: 512 << 10, Anonymous: 1 << 10, PrivateDirty: 2 << 10},
		{Size: 4 << 10, Anonymous: 3 << 10, PrivateDirty: 3 << 10},
		{Size: 512 << 10, Anonymous: 10 << 10, PrivateDirty: 10 << 10},
	}
	if m := usageOf(all, "t.ram", 512); m.GuestMiB != 1 || m.OverheadMiB != 13 {
		t.Errorf("of a file: %+v, want 1 of the guest and 13 beside", m)
	}
	if m := usageOf(all, "", 512); m.GuestMiB != 10 || m.OverheadMiB != 5 {
		t.Errorf("of anonymous memory: %+v, want 10 of the guest and 5 beside", m)
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
