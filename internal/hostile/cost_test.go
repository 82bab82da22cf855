package hostile

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containervm/containervm/internal/smaps"
	"github.com/containervm/containervm/internal/vmtest"
)

// Bounds of what processes may have taken at most, in MiB: well above what was measured (SECURITY.md), well below what the attacks
// could make of them before there were budgets (849 MiB of a supervisor, 4.5 GiB of a daemon).
const (
	mostSupervisor = 160
	mostDaemon     = 512
	mostSwitch     = 256
	mostQEMU       = 128 + 384 // the guest's memory, and what QEMU takes beside it
)

// peaks are the highest resident sizes that were seen of a machine's processes, in MiB.
type peaks func() peak

type peak struct{ qemu, supervisor int }

func (p peak) String() string {
	return fmt.Sprintf("QEMU %d MiB, supervisor %d MiB", p.qemu, p.supervisor)
}

// watch looks at a machine's processes until peaks is called for the first time. The kernel keeps the peak itself, but not beyond the end of a
// process.
func watch(qemu, supervisor int) peaks {
	stop, done, most := make(chan struct{}), make(chan struct{}), peak{}
	go func() {
		defer close(done)
		for {
			most = peak{max(most.qemu, status(qemu, "VmHWM")), max(most.supervisor, status(supervisor, "VmHWM"))}
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	end := sync.OnceFunc(func() { close(stop); <-done })
	return func() peak { end(); return most }
}

func (p peaks) check(t *testing.T) {
	t.Helper()
	most := p()
	if most.supervisor == 0 || most.qemu == 0 {
		t.Error("the machine's memory was not seen")
	}
	if most.supervisor > mostSupervisor {
		t.Errorf("the supervisor took %d MiB, more than %d", most.supervisor, mostSupervisor)
	}
	if most.qemu > mostQEMU {
		t.Errorf("QEMU took %d MiB, more than %d", most.qemu, mostQEMU)
	}
}

// status is a size of /proc/PID/status in MiB, rounded up; 0: there is no such process.
func status(pid int, key string) (size int) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			_, _ = fmt.Sscan(value, &size)
			return (size + 1023) >> 10
		}
	}
	return 0
}

// costs says what the host's processes take now, of their own, and fails the test if it is too much.
func (s *sibling) costs(t *testing.T) string {
	t.Helper()
	all := []string{}
	for _, p := range s.h.Processes() {
		own := 0
		mappings, err := smaps.Read(p.PID)
		if err != nil {
			continue // it has ended
		}
		for _, m := range mappings {
			own += int(m.Anonymous)
		}
		peak, most := status(p.PID, "VmHWM"), map[string]int{"cvm": mostDaemon, vmtest.Switch: mostSwitch, vmtest.Supervisor: mostSupervisor}[p.Program]
		if most > 0 && peak > most {
			t.Errorf("%s took %d MiB, more than %d", p, peak, most)
		}
		if p.Program == "cvm" && p.PID != s.daemon || p.Program == "docker" {
			continue
		}
		all = append(all, fmt.Sprintf("%s %d (peak %d)", p.Program, own>>10, peak))
	}
	slices.Sort(all)
	return "own MiB: " + strings.Join(all, ", ")
}

// groupsOf are the directories of control groups that the processes are in, and this one is not.
func groupsOf(pids ...int) (dirs []string) {
	mine := groupLines(os.Getpid())
	for _, pid := range pids {
		for line := range groupLines(pid) {
			if mine[line] {
				continue
			}
			fields := strings.SplitN(line, ":", 3) // cgroups(7): ID, controllers, path
			for _, controller := range strings.Split(fields[1], ",") {
				dirs = append(dirs, filepath.Join("/sys/fs/cgroup", strings.TrimPrefix(controller, "name="), fields[2]))
			}
		}
	}
	return dirs
}

func groupLines(pid int) map[string]bool {
	lines := map[string]bool{}
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	for line := range strings.Lines(string(text)) {
		if strings.Count(line, ":") >= 2 {
			lines[strings.TrimSpace(line)] = true
		}
	}
	return lines
}
