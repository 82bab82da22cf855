package supervisor

import (
	"io"
	"sync"
)

// maxOwnLog bounds supervisor.log, in bytes: a guest whose connections fail without end has a record written for each.
const maxOwnLog = 4 << 20

// maxQEMULog bounds qemu.log, in bytes: a guest can have QEMU complain without end.
const maxQEMULog = 1 << 20

// boundedLog writes records until there is no more room for one, and says so once.
type boundedLog struct {
	mu   sync.Mutex
	w    io.Writer
	left int
}

const logIsFull = "no more is logged: the file is full\n"

func (b *boundedLog) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.left <= 0:
		return len(p), nil
	case len(p) > b.left:
		b.left = 0
		_, err := io.WriteString(b.w, logIsFull)
		return len(p), err
	}
	b.left -= len(p)
	return b.w.Write(p)
}
