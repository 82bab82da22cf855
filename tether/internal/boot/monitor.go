package boot

import (
	"fmt"
	"os"
	"slices"
	"strconv"
)

// monitorSlack is by how much the runtime's monitor may wake late, in nanoseconds.
const monitorSlack = 4_000_000

// SlackenMonitor makes the monitor thread of Go's runtime wake with other timers rather than on its own, 20 µs after it went to
// sleep. The monitor looks for threads that hang in a system call, and in an emulated machine nearly every call takes longer than
// that: it took a container's only processor fifty times for each exec, to wake a thread that had nothing to do. It needs /proc.
func SlackenMonitor() error {
	thread, err := monitorThread("/proc/self/task")
	if err == nil {
		err = os.WriteFile(fmt.Sprintf("/proc/%d/timerslack_ns", thread), []byte(strconv.Itoa(monitorSlack)), 0)
	}
	if err != nil {
		return fmt.Errorf("cannot set the timer slack of the runtime's monitor: %w", err)
	}
	return nil
}

// monitorThread is the oldest thread beside the first: the runtime starts its monitor before all others.
func monitorThread(tasks string) (int, error) {
	entries, err := os.ReadDir(tasks)
	if err != nil {
		return 0, err
	}
	var threads []int
	for _, e := range entries {
		id, err := strconv.Atoi(e.Name())
		if err != nil {
			return 0, err
		}
		threads = append(threads, id)
	}
	if len(threads) < 2 {
		return 0, fmt.Errorf("%d threads", len(threads))
	}
	slices.Sort(threads)
	return threads[1], nil
}
