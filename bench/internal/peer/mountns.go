package peer

import (
	"context"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/bench/internal/measure"
)

// unifiedMount is where a host with both versions of cgroups has the second.
const unifiedMount = "/sys/fs/cgroup/unified"

// HybridCgroups says that this host has both versions of cgroups mounted, on which crun refuses to run.
func HybridCgroups() bool {
	_, err := os.Stat(unifiedMount)
	return err == nil
}

// WithoutUnified measures in a mount namespace without the second version of cgroups: processes that it starts do not see
// it. The thread is given up afterwards, since it cannot go back.
func WithoutUnified(ctx context.Context, measureIt func(context.Context) (measure.Sample, error)) (s measure.Sample, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err = leaveUnified(); err == nil {
			s, err = measureIt(ctx)
		}
	}()
	<-done
	return s, err
}

func leaveUnified() error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("cannot have a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot make mounts private: %w", err)
	}
	if err := unix.Unmount(unifiedMount, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("cannot unmount %s: %w", unifiedMount, err)
	}
	return nil
}
