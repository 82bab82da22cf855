package boot

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestMonitorThreadIsTheSecond(t *testing.T) {
	tasks := t.TempDir()
	for _, id := range []string{"10", "1", "9"} {
		if err := os.Mkdir(filepath.Join(tasks, id), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if id, err := monitorThread(tasks); id != 9 || err != nil {
		t.Errorf("%d, %v", id, err)
	}
}

// The runtime of this very program: the thread is one of its own, and takes the slack.
func TestSlackenMonitor(t *testing.T) {
	if err := SlackenMonitor(); err != nil {
		t.Skipf("%v (try: as root)", err)
	}
	id, err := monitorThread("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	slack, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", id))
	if err != nil || strings.TrimSpace(string(slack)) != strconv.Itoa(monitorSlack) {
		t.Errorf("%q, %v", slack, err)
	}
}
