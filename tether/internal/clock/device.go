package clock

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Device finds a clock device through which the machine's hypervisor tells its own time, KVM's or VMware's, and returns what reads it; nil: the
// machine has none, or it cannot be read. Other devices are of network cards, whose clocks are anybody's. It is kept open as long as the
// machine lives. (No machine with one was seen by the tests.)
func Device() func(context.Context) (time.Time, error) { return device("/") }

func device(root string) func(context.Context) (time.Time, error) {
	names, _ := filepath.Glob(filepath.Join(root, "sys/class/ptp/ptp*/clock_name")) // the pattern is right
	for _, name := range names {
		text, err := os.ReadFile(name)
		// drivers/ptp/ptp_kvm_common.c and ptp_vmw.c name themselves so.
		if what := strings.TrimSpace(string(text)); err != nil || what != "KVM virtual PTP" && what != "ptp_vmw" {
			continue
		}
		f, err := os.Open(filepath.Join(root, "dev", filepath.Base(filepath.Dir(name))))
		if err != nil {
			continue
		}
		id := int32((^f.Fd())<<3 | 3) // FD_TO_CLOCKID of clock_gettime(2)
		return func(context.Context) (time.Time, error) {
			var ts unix.Timespec
			if err := unix.ClockGettime(id, &ts); err != nil {
				return time.Time{}, fmt.Errorf("cannot read %s: %w", f.Name(), err)
			}
			return time.Unix(0, ts.Nano()), nil
		}
	}
	return nil
}
