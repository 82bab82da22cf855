package process

import (
	"errors"
	"io"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits are those of the container's cgroup (Linux, Documentation/admin-guide/cgroup-v2.rst). The zero value is that of a container
// without any.
type Limits struct {
	Pids      int64  // processes and threads; 0 and less, or more than the tether's own limit: that one
	CPUs      string // in cpuset(7)'s List format; empty: all
	MemoryLow uint64 // bytes that are taken from others first
	CPUWeight uint64 // 1 to 10000; 0: 100, which is everybody's
}

// SetLimits makes l the container's limits. It may be called at any time.
func (c *Container) SetLimits(l Limits) error {
	if c.cgroup == nil {
		return ErrNoCgroup
	}
	c.limits.Lock()
	defer c.limits.Unlock()
	pids, err := c.pidsLimitLocked(l.Pids)
	if err == nil {
		err = c.setLimit("pids", "pids.max", pids, false)
	}
	if err == nil {
		err = c.setLimit("cpuset", "cpuset.cpus", l.CPUs, l.CPUs == "")
	}
	if err == nil {
		err = c.setLimit("memory", "memory.low", strconv.FormatUint(l.MemoryLow, 10), l.MemoryLow == 0)
	}
	if err == nil {
		weight := l.CPUWeight
		if weight == 0 {
			weight = 100
		}
		err = c.setLimit("cpu", "cpu.weight", strconv.FormatUint(weight, 10), l.CPUWeight == 0)
	}
	return err
}

// pidsLimitLocked is the lower of a limit and the tether's own, which is what the cgroup had first. The caller holds limits.
func (c *Container) pidsLimitLocked(limit int64) (string, error) {
	if c.ownPids == "" {
		f, err := c.cgroupFile("pids.max", unix.O_RDONLY)
		if err != nil {
			return "", err
		}
		defer f.Close()
		text, err := io.ReadAll(io.LimitReader(f, 64))
		if err != nil {
			return "", err
		}
		c.ownPids = strings.TrimSpace(string(text))
	}
	own, err := strconv.ParseInt(c.ownPids, 10, 64)
	if limit <= 0 || err == nil && limit > own {
		return c.ownPids, nil
	}
	return strconv.FormatInt(limit, 10), nil
}

// setLimit writes a value to a file of the cgroup, whose controller is switched on for it. That costs its accounting, so a controller
// that is off is left alone when the value is the kernel's own (reset).
func (c *Container) setLimit(controller, file, value string, reset bool) error {
	value += "\n" // an empty line is a value, too
	err := writeAt(c.cgroup, file, value)
	switch {
	case !errors.Is(err, unix.ENOENT):
		return err
	case reset:
		return nil
	}
	if err := writeAt(c.cgroup, "../cgroup.subtree_control", "+"+controller); err != nil {
		return err
	}
	return writeAt(c.cgroup, file, value)
}
