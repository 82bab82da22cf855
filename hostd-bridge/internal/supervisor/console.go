package supervisor

import (
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
	file *os.File      // open until this process ends
	done chan struct{} // closed when all is written
	err  error         // set before done is closed
}

// copyConsole copies from to an empty file until QEMU closes it. When the file cannot be written the rest is discarded: a guest whose console
// is not read stands still.
func copyConsole(f *os.File, from io.ReadCloser) *console {
	c := &console{file: f, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		defer from.Close()
		c.err = c.copy(from)
		_, _ = io.Copy(io.Discard, from)
	}()
	return c
}

func (c *console) copy(from io.Reader) error {
	buf := make([]byte, 16<<10)
	for size := int64(0); ; {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := c.file.WriteAt(buf[:n], size); err != nil {
				return err
			}
		}
		if err != nil {
			return nil // QEMU has ended
		}
		if size += int64(n); size > consoleMax {
			if err := keepEnd(c.file); err != nil {
				return err
			}
			size = consoleKeep
		}
	}
}

// keepEnd cuts the file down to its last bytes.
func keepEnd(f *os.File) error {
	end := tail(f, consoleKeep)
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt(end, 0)
	return err
}
