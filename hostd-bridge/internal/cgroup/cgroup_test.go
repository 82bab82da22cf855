package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/cgroups/v3/cgroup1"
)

func TestSetCPUs(t *testing.T) {
	h, err := New()
	if err != nil {
		if os.Geteuid() == 0 {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	sleeper := exec.Command("sleep", "60")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	name := "test-" + strconv.Itoa(sleeper.Process.Pid)
	end := func() {
		_ = sleeper.Process.Kill()
		_ = sleeper.Wait()
	}
	t.Cleanup(func() { end(); _ = h.Remove(name) })
	set := func(cpus float64, want string) {
		t.Helper()
		if err := h.SetCPUs(name, sleeper.Process.Pid, cpus); err != nil {
			t.Fatal(err)
		}
		if got := h.quota(t, name); got != want {
			t.Errorf("%v CPUs: the quota is %s, want %s", cpus, got, want)
		}
	}
	if err := h.SetCPUs(name, sleeper.Process.Pid, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(h.dir(name)); err == nil {
		t.Error("a group without a limit was made")
	}
	set(1.5, "150000 100000")
	set(0.0001, "1000 100000")
	set(2, "200000 100000")
	procs, err := os.ReadFile(filepath.Join(h.dir(name), "cgroup.procs"))
	if err != nil || strings.TrimSpace(string(procs)) != strconv.Itoa(sleeper.Process.Pid) {
		t.Errorf("the group has the processes %q, %v", procs, err)
	}
	none := "-1 100000"
	if h.unified {
		none = "max 100000"
	}
	set(0, none)
	if err := h.Remove(name); err == nil {
		t.Error("a group with a process was removed")
	}
	end()
	for range 2 {
		if err := h.Remove(name); err != nil {
			t.Error(err)
		}
	}
}

// quota is a group's quota and period.
func (h *Host) quota(t *testing.T, name string) string {
	t.Helper()
	files := []string{"cpu.max"}
	if !h.unified {
		files = []string{string(cgroup1.Cpu) + ".cfs_quota_us", string(cgroup1.Cpu) + ".cfs_period_us"}
	}
	var all []string
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(h.dir(name), f))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.TrimSpace(string(text)))
	}
	return strings.Join(all, " ")
}
