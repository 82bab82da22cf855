package process

import (
	"errors"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// maxKernelRecord is the longest record of the kernel's log, in bytes (Linux, PRINTK_MESSAGE_MAX, include/linux/printk.h).
const maxKernelRecord = 8 << 10

// oomWatch tells whether the kernel has killed for want of memory, by the kernel's log. The machine is the container's
// own, so a kill in the machine is one in the container.
type oomWatch struct {
	mu   sync.Mutex
	kmsg int // negative: there is none
	seen bool
}

// newOOMWatch watches from now on.
func newOOMWatch() *oomWatch {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil {
		_, err = unix.Seek(fd, 0, unix.SEEK_END)
	}
	if err != nil {
		return &oomWatch{kmsg: -1}
	}
	return &oomWatch{kmsg: fd}
}

// killed reports whether the kernel has killed since the watch began.
func (o *oomWatch) killed() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	record := make([]byte, maxKernelRecord)
	for !o.seen {
		n, err := unix.Read(o.kmsg, record)
		switch {
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.EINTR): // EPIPE: records were overwritten unread
		case err != nil:
			return false
		default:
			o.seen = isOOMKill(string(record[:n]))
		}
	}
	return true
}

// isOOMKill recognises the record of a kill (Linux, mm/oom_kill.c, __oom_kill_process). Form of a record: Linux,
// Documentation/ABI/testing/dev-kmsg. A process may write there too, but not as the kernel, which is facility 0.
func isOOMKill(record string) bool {
	prefix, text, _ := strings.Cut(record, ";")
	priority, _, _ := strings.Cut(prefix, ",")
	p, err := strconv.ParseUint(priority, 10, 32)
	return err == nil && p>>3 == 0 && strings.Contains(text, "ut of memory: Killed process ")
}

func (o *oomWatch) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.kmsg >= 0 {
		_ = unix.Close(o.kmsg)
	}
	o.kmsg = -1
}
