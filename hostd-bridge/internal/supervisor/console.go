package supervisor

import (
	"fmt"
	"io"
	"os"
)

// Bounds of the console's file, in bytes: when it has grown beyond consoleMax, its end is kept.
const (
	consoleMax  = 4 << 20
	consoleKeep = 1 << 20
)

// console copies what a guest writes on its serial port to a file of bounded size.
type console struct {
	path string
	done chan struct{} // closed when all is written
	err  error         // set before done is closed
}

// copyConsole makes the file anew and copies from until QEMU closes it. When the file cannot be written the rest is discarded: a
// guest whose console is not read stands still.
func copyConsole(path string, from io.ReadCloser) (*console, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o640)
	if err != nil {
		from.Close()
		return nil, fmt.Errorf("cannot open the console's file: %w", err)
	}
	c := &console{path: path, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		defer from.Close()
		defer f.Close()
		c.err = c.copy(f, from)
		_, _ = io.Copy(io.Discard, from)
	}()
	return c, nil
}

func (c *console) copy(f *os.File, from io.Reader) error {
	buf := make([]byte, 16<<10)
	for size := int64(0); ; {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := f.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return nil // QEMU has ended
		}
		if size += int64(n); size > consoleMax {
			if err := keepEnd(f, c.path); err != nil {
				return err
			}
			size = consoleKeep
		}
	}
}

// keepEnd cuts the file, open for appending, down to its last bytes.
func keepEnd(f *os.File, path string) error {
	end := tail(path, consoleKeep)
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.Write(end)
	return err
}
