package process

import (
	"os"
	"strconv"
	"strings"
	"sync"
)

// oomWatch tells whether the kernel has killed for want of memory lately. The machine is the container's own, so the
// kernel's count for the machine is the container's.
type oomWatch struct {
	mu   sync.Mutex
	seen uint64
}

// struck reports whether the kernel has killed since the last call.
func (o *oomWatch) struck() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	text, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		return false
	}
	kills := oomKills(string(text))
	grew := kills > o.seen
	o.seen = kills
	return grew
}

// oomKills is the count oom_kill of /proc/vmstat (Linux, mm/vmstat.c).
func oomKills(vmstat string) uint64 {
	_, after, _ := strings.Cut("\n"+vmstat, "\noom_kill ")
	count, _, _ := strings.Cut(after, "\n")
	n, _ := strconv.ParseUint(count, 10, 64)
	return n
}
