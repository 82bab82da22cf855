package main

import (
	"fmt"
	"os"
	"sync"

	"github.com/containervm/containervm/internal/trusted"
)

// maxLogBytes bounds the log file; one older file of that size is kept beside it as <name>.1.
const maxLogBytes = 16 << 20

// logFile is a log of bounded size.
type logFile struct {
	path string
	max  int64

	mu   sync.Mutex
	f    *os.File
	size int64
}

func openLog(path string) (*logFile, error) {
	l := &logFile{path: path, max: maxLogBytes}
	return l, l.open()
}

func (l *logFile) open() error {
	f, err := trusted.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("cannot open the log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("cannot open the log: %w", err)
	}
	l.f, l.size = f, info.Size()
	return nil
}

// Write appends one log line; a line is never split between two files.
func (l *logFile) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > 0 && l.size+int64(len(b)) > l.max {
		if err := l.rotate(); err != nil {
			return 0, err
		}
	}
	n, err := l.f.Write(b)
	l.size += int64(n)
	return n, err
}

func (l *logFile) rotate() error {
	l.f.Close()
	if err := os.Rename(l.path, l.path+".1"); err != nil {
		return fmt.Errorf("cannot put the full log aside: %w", err)
	}
	return l.open()
}
