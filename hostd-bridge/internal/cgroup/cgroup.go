// Package cgroup limits what a machine's processes take of their host, by control groups of version 1 or 2.
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/opencontainers/runtime-spec/specs-go"
)

const (
	// root is where the kernel's control groups are by convention (Documentation/admin-guide/cgroup-v2.rst, systemd's file-hierarchy(7)).
	root = "/sys/fs/cgroup"
	// parent has the groups of all machines of all daemons on this host.
	parent = "/containervm"
	// period is in which a group may use its share of the CPUs, in microseconds: the kernel's default (sched-bwc.rst).
	period = 100_000
	// minQuota is the least share of a period that the kernel takes, in microseconds (sched-bwc.rst).
	minQuota = 1_000
)

// MinCPUs is the least limit of CPU time, in CPUs.
const MinCPUs = float64(minQuota) / period

// Host makes groups.
type Host struct{ unified bool }

// New tries whether this process can make groups that limit CPU time. The error says what hinders it.
func New() (*Host, error) {
	h := &Host{unified: cgroups.Mode() == cgroups.Unified}
	probe := "probe-" + strconv.Itoa(os.Getpid())
	err := h.limit(probe, 1)
	if err == nil {
		err = h.Remove(probe)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make control groups that limit CPU time: %w", err)
	}
	return h, nil
}

// SetCPUs lets a process, which is in the group name from then on, use at most so much time of the host's CPUs; 0: as much as there is.
// A limit below MinCPUs counts as that.
func (h *Host) SetCPUs(name string, pid int, cpus float64) error {
	if _, err := os.Stat(h.dir(name)); cpus == 0 && errors.Is(err, os.ErrNotExist) {
		return nil
	}
	err := h.limit(name, cpus)
	if err == nil {
		err = os.WriteFile(filepath.Join(h.dir(name), "cgroup.procs"), strconv.AppendInt(nil, int64(pid), 10), 0)
	}
	if err != nil {
		return fmt.Errorf("cannot limit CPU time to %.2f CPUs: %w", cpus, err)
	}
	return nil
}

// limit makes the group, or changes it.
func (h *Host) limit(name string, cpus float64) error {
	quota, every := max(int64(cpus*period), minQuota), uint64(period)
	if cpus == 0 {
		quota = -1
	}
	if !h.unified {
		limits := &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota, Period: &every}}
		only := func() ([]cgroup1.Subsystem, error) { return []cgroup1.Subsystem{cgroup1.NewCpu(root)}, nil }
		_, err := cgroup1.New(cgroup1.StaticPath(group(name)), limits, cgroup1.WithHierarchy(only))
		return err
	}
	upTo := &quota
	if cpus == 0 {
		upTo = nil // "max"
	}
	_, err := cgroup2.NewManager(root, group(name), &cgroup2.Resources{CPU: &cgroup2.CPU{Max: cgroup2.NewCPUMax(upTo, &every)}})
	return err
}

// Remove removes a group whose processes have ended. One that is not there is no error.
func (h *Host) Remove(name string) error {
	if err := os.Remove(h.dir(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove control group: %w", err)
	}
	return nil
}

func group(name string) string { return parent + "/" + name }

func (h *Host) dir(name string) string {
	if h.unified {
		return filepath.Join(root, group(name))
	}
	return filepath.Join(root, string(cgroup1.Cpu), group(name))
}
