package vmtest

import (
	"bytes"
	"io"
	"os"
	"path/filepath"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// reportTail is how much of each log a failed test prints, in bytes.
const reportTail = 8 << 10

// report prints, when the test has failed, the end of the daemons' logs and of every machine's console.
func (h *Host) report() {
	if !h.tb.Failed() {
		return
	}
	logs, _ := filepath.Glob(filepath.Join(h.State, "logs", "*.log"))
	consoles, _ := filepath.Glob(filepath.Join(h.datastore(), "*", hostapi.ConsoleFile))
	for _, path := range append(logs, consoles...) {
		h.tb.Logf("--- end of %s\n%s", path, tail(path, reportTail))
	}
	for _, p := range h.Processes() {
		h.tb.Log(p)
	}
}

// tail reads the last n bytes of a file; an error becomes the text.
func tail(path string, n int64) []byte {
	f, err := os.Open(path)
	if err != nil {
		return []byte(err.Error())
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, size-n), io.SeekStart)
	}
	b, err := io.ReadAll(io.LimitReader(f, n))
	if err != nil {
		return []byte(err.Error())
	}
	return bytes.ToValidUTF8(b, []byte("?"))
}
