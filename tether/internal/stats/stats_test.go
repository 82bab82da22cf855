package stats

import (
	"os"
	"path/filepath"
	"testing"
)

// tree writes files into a directory.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func source(cgroup, proc string) Source {
	return Source{Proc: proc, Cgroup: func(name string) (*os.File, error) { return os.Open(filepath.Join(cgroup, name)) }}
}

func machine() map[string]string {
	return map[string]string{
		"stat":    "cpu  10 20 30 400 50 6 7 8 9 10\ncpu0 10 20 30 400 50 6 7 8 9 10\n",
		"meminfo": "MemTotal:         200 kB\nMemFree:           50 kB\nMemAvailable:     120 kB\n",
		"net/dev": "Inter-|   Receive  |  Transmit\n face |bytes packets\n" +
			"    lo:  1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n  eth0:  1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n",
		"diskstats": "   8       0 sda 10 0 20 5 30 0 40 5 0 10 10 0 0 0 0\n   8      16 sdb 0 0 0 0 0 0 0 0 0 0 0\n   7       0 loop0 1 0 1 0 1 0 1 0 0 0 0\nshort\n",
	}
}

func TestRead(t *testing.T) {
	cgroup := tree(t, map[string]string{
		"cpu.stat":       "usage_usec 100\nuser_usec 60\nsystem_usec 40\nnr_periods 3\nnr_throttled 2\nthrottled_usec 1\n",
		"memory.current": "5000\n", "memory.max": "max\n", "memory.stat": "anon 10\ninactive_file 1000\n", "memory.events": "oom 1\noom_kill 2\n",
		"memory.swap.current": "70\n", "pids.current": "4\n", "pids.max": "max\n",
	})
	got, err := source(cgroup, tree(t, machine())).Read()
	if err != nil {
		t.Fatal(err)
	}
	if c := got.Cpu; c.Usage != 100 || c.User != 60 || c.System != 40 || c.Periods != 3 || c.ThrottledPeriods != 2 || c.Throttled != 1 ||
		c.Online == 0 || c.MachineIdle != 450*tick || c.MachineTotal != 531*tick {
		t.Errorf("CPU: %v", c)
	}
	if m := got.Memory; m.Usage != 5000 || m.Limit != 200<<10 || m.MachineTotal != 200<<10 || m.MachineAvailable != 120<<10 ||
		m.Stat["inactive_file"] != 1000 || m.OomKills != 2 || m.Swap != 70 {
		t.Errorf("memory: %v", m)
	}
	if got.Pids != 4 || got.PidsLimit != 0 || got.UnixNano == 0 {
		t.Errorf("%v", got)
	}
	if len(got.Networks) != 1 || got.Networks[0].Name != "eth0" || got.Networks[0].RxDropped != 4 || got.Networks[0].TxBytes != 9 {
		t.Errorf("networks: %v", got.Networks)
	}
	if len(got.Blocks) != 1 || got.Blocks[0].ReadBytes != 20*512 || got.Blocks[0].WriteBytes != 40*512 || got.Blocks[0].Writes != 30 {
		t.Errorf("disks: %v", got.Blocks)
	}
}

// TestReadWithoutControllers: what no controller counts is the machine's, or not there.
func TestReadWithoutControllers(t *testing.T) {
	got, err := source(tree(t, map[string]string{"cpu.stat": "usage_usec 1\n"}), tree(t, machine())).Read()
	if err != nil || got.Memory.Usage != 80<<10 || got.Pids != 0 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := source(t.TempDir(), t.TempDir()).Read(); err == nil {
		t.Error("no counters at all are no error")
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range machine() {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		idle, total := machineTime([]byte(text))
		_, _, _, _ = idle, total, keyed([]byte(text)), parseDiskstats(text)
		for _, n := range parseNetDev(text) {
			if n.Name == "lo" {
				t.Errorf("the loopback: %v", n)
			}
		}
	})
}
