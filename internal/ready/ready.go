// Package ready has a daemon tell the process that started it that it serves, and how it can be reached.
package ready

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

// Say writes value as one line of JSON to an inherited descriptor and closes it. A negative descriptor is none: nobody asked.
func Say(fd int, value any) error {
	if fd < 0 {
		return nil
	}
	f := os.NewFile(uintptr(fd), "ready")
	if err := errors.Join(json.NewEncoder(f).Encode(value), f.Close()); err != nil {
		return fmt.Errorf("cannot say that the daemon is ready: %w", err)
	}
	return nil
}
