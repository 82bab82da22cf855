package boot

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// LockMemory keeps the tether's memory from a swap file, which a container may read and write, and from being taken when there is
// none left. Pages are locked as they are used.
func LockMemory() error {
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("cannot lock the tether's memory: %w", err)
	}
	return nil
}
