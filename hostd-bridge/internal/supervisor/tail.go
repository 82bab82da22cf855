package supervisor

import (
	"io"
	"os"
)

// maxReport bounds exit.json, in bytes: what a guest may set, and more.
const maxReport = 4 << 20

// tail is the end of a file, at most n bytes; empty when it cannot be read.
func tail(f *os.File, n int64) []byte {
	info, err := f.Stat()
	if err != nil {
		return nil
	}
	from := max(0, info.Size()-n)
	b, _ := io.ReadAll(io.NewSectionReader(f, from, n)) // what can be read of it
	return b
}
