package supervisor

import (
	"fmt"
	"os"
	"time"
)

// Bounds of the console's file, in bytes: when it is found longer than consoleMax, its end is kept.
const (
	consoleMax  = 4 << 20
	consoleKeep = 1 << 20
	consoleLook = 30 * time.Second
)

// boundConsole keeps a guest that floods its console from filling the disk. QEMU writes the file itself, without us on
// the way of each byte, so we look now and then.
func (m *machine) boundConsole() {
	look := time.NewTicker(consoleLook)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			if err := trimFile(ConsolePath(m.cfg.HomeDir), consoleMax, consoleKeep); err != nil {
				m.log.Warn("the console's file grows", "err", err)
			}
		case <-m.qemu.ended:
			return
		}
	}
}

// trimFile cuts a file longer than limit down to its last keep bytes. Who appends to it meanwhile may lose a little.
func trimFile(path string, limit, keep int64) error {
	st, err := os.Stat(path)
	if err != nil || st.Size() <= limit {
		return err
	}
	end := tail(path, keep)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_TRUNC, 0)
	if err != nil {
		return fmt.Errorf("cannot trim: %w", err)
	}
	defer f.Close()
	if _, err := f.Write(end); err != nil {
		return fmt.Errorf("cannot trim: %w", err)
	}
	return nil
}
