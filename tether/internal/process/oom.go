package process

import (
	"os"
	"strconv"
	"strings"
)

// oomStruck reports whether the kernel has killed for want of memory since the machine's start. The machine is the
// container's own, so its count is the container's.
func oomStruck() bool {
	text, err := os.ReadFile("/proc/vmstat")
	return err == nil && oomKills(string(text)) > 0
}

// oomKills is the count oom_kill of /proc/vmstat (Linux, mm/vmstat.c).
func oomKills(vmstat string) uint64 {
	_, after, _ := strings.Cut("\n"+vmstat, "\noom_kill ")
	count, _, _ := strings.Cut(after, "\n")
	n, _ := strconv.ParseUint(count, 10, 64)
	return n
}
