package qemu

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/tether/link"
)

// TestBootTether boots what CVM_TEST_INITRD names, tells it CVM_TEST_SPEC on a delta of CVM_TEST_DISK, and shows all
// that happens: a tool for work on the tether.
func TestBootTether(t *testing.T) {
	if os.Getenv("CVM_TEST_SPEC") == "" {
		t.Skip("shows a boot by hand (try: CVM_TEST_SPEC='{...}' CVM_TEST_DISK=... CVM_TEST_INITRD=...)")
	}
	start := time.Now()
	g := launchGuest(t, func(s *vm.MachineSpec) {
		s.Guestinfo[link.KeySpec] = os.Getenv("CVM_TEST_SPEC")
		if disk := os.Getenv("CVM_TEST_DISK"); disk != "" {
			s.RootDisk = filepath.Join(s.HomeDir, "root.vmdk")
			if err := createDelta(s.RootDisk, disk); err != nil {
				t.Fatal(err)
			}
		}
	})
	for e := g.next(); ; e = g.next() {
		t.Logf("%v %+v", time.Since(start), e.Guestinfo)
		if e.Exit != nil {
			t.Logf("%+v", *e.Exit)
			break
		}
	}
	text, err := os.ReadFile(filepath.Join(g.spec.HomeDir, "stdio.log"))
	t.Logf("stdio.log: %q, %v", text, err)
}
