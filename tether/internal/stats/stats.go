// Package stats reads what a container uses, from the files of its cgroup and of /proc. Rates are its reader's to make.
package stats

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// maxFile bounds a file of the kernel's, in bytes.
const maxFile = 1 << 20

// Source is where counters are read.
type Source struct {
	// Cgroup opens a file of the container's cgroup.
	Cgroup func(name string) (*os.File, error)
	// Proc is the directory of the machine's proc file system, in whose first network namespace the container is.
	Proc string
}

// Read reads all counters. A kernel that does not account for memory by cgroup has what the machine uses in its place.
func (s Source) Read() (*tetherv1.StatsResponse, error) {
	r := &tetherv1.StatsResponse{UnixNano: time.Now().UnixNano(), Memory: &tetherv1.StatsResponse_Memory{}}
	var err error
	if r.Cpu, err = s.cpu(); err != nil {
		return nil, err
	}
	if err := s.memory(r.Memory); err != nil {
		return nil, err
	}
	if err := s.pids(r); err != nil {
		return nil, err
	}
	if r.Networks, err = s.networks(); err != nil {
		return nil, err
	}
	r.Blocks, err = s.blocks()
	return r, err
}

func (s Source) cpu() (*tetherv1.StatsResponse_Cpu, error) {
	text, err := s.cgroup("cpu.stat")
	if err != nil {
		return nil, err
	}
	stat := keyed(text)
	c := &tetherv1.StatsResponse_Cpu{
		Usage: stat["usage_usec"], User: stat["user_usec"], System: stat["system_usec"],
		Periods: stat["nr_periods"], ThrottledPeriods: stat["nr_throttled"], Throttled: stat["throttled_usec"],
		Online: uint32(runtime.NumCPU()),
	}
	if text, err = s.proc("stat"); err == nil {
		c.MachineIdle, c.MachineTotal = machineTime(text)
	}
	return c, err
}

// tick is the unit of /proc/stat in microseconds: USER_HZ is 100 on every Linux of this architecture.
const tick = 10_000

// machineTime reads the first line of /proc/stat, proc_stat(5): the time that all CPUs together were idle, and all time. What guests of the
// machine took is in the user's time already.
func machineTime(text []byte) (idle, total uint64) {
	line, _, _ := strings.Cut(string(text), "\n")
	f := strings.Fields(line)
	if len(f) == 0 || f[0] != "cpu" {
		return 0, 0
	}
	const states, idleState, waitState = 8, 3, 4 // user, nice, system, idle, iowait, irq, softirq, steal
	for i, v := range f[1:min(len(f), 1+states)] {
		n, _ := strconv.ParseUint(v, 10, 64)
		total += n * tick
		if i == idleState || i == waitState {
			idle += n * tick
		}
	}
	return idle, total
}

func (s Source) memory(m *tetherv1.StatsResponse_Memory) error {
	text, err := s.proc("meminfo")
	if err != nil {
		return err
	}
	info := keyed(text)
	m.MachineTotal, m.MachineAvailable = info["MemTotal:"]<<10, info["MemAvailable:"]<<10
	m.Limit = m.MachineTotal
	m.Usage, err = s.number("memory.current")
	if errors.Is(err, fs.ErrNotExist) {
		m.Usage = m.MachineTotal - min(m.MachineTotal, m.MachineAvailable)
		return nil
	}
	if err != nil {
		return err
	}
	if limit, err := s.number("memory.max"); err == nil && limit > 0 {
		m.Limit = min(limit, m.MachineTotal)
	}
	if m.Swap, err = s.number("memory.swap.current"); err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without swap
		return err
	}
	if text, err = s.cgroup("memory.stat"); err != nil {
		return err
	}
	m.Stat = keyed(text)
	if text, err = s.cgroup("memory.events"); err == nil {
		m.OomKills = keyed(text)["oom_kill"]
	}
	return err
}

func (s Source) pids(r *tetherv1.StatsResponse) (err error) {
	if r.Pids, err = s.number("pids.current"); err == nil {
		r.PidsLimit, err = s.number("pids.max")
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// networks are the interfaces that the container sees, but for the loopback.
func (s Source) networks() ([]*tetherv1.NetworkStats, error) {
	text, err := s.proc("net/dev")
	if err != nil {
		return nil, err
	}
	return parseNetDev(string(text)), nil
}

// parseNetDev decodes /proc/net/dev, proc_pid_net(5): two lines of titles, then "name: 16 numbers".
func parseNetDev(text string) []*tetherv1.NetworkStats {
	var all []*tetherv1.NetworkStats
	for line := range strings.Lines(text) {
		colon := strings.LastIndexByte(line, ':')
		if colon < 0 {
			continue
		}
		name, f := strings.TrimSpace(line[:colon]), numbers(line[colon+1:])
		if len(f) < 16 || name == "lo" {
			continue
		}
		all = append(all, &tetherv1.NetworkStats{
			Name: name, RxBytes: f[0], RxPackets: f[1], RxErrors: f[2], RxDropped: f[3],
			TxBytes: f[8], TxPackets: f[9], TxErrors: f[10], TxDropped: f[11],
		})
	}
	return all
}

// blocks are the machine's disks. All of them are the container's.
func (s Source) blocks() ([]*tetherv1.BlockStats, error) {
	text, err := s.proc("diskstats")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseDiskstats(string(text)), nil
}

// sector is the unit of /proc/diskstats in bytes, whatever a disk's own is (Documentation/admin-guide/iostats.rst).
const sector = 512

// parseDiskstats decodes /proc/diskstats, Documentation/admin-guide/iostats.rst. Disks that were never used, and those in memory, are left out.
func parseDiskstats(text string) []*tetherv1.BlockStats {
	const ram, loop = 1, 7 // Documentation/admin-guide/devices.txt
	var all []*tetherv1.BlockStats
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 14 {
			continue
		}
		major, minor, n := parse(f[0]), parse(f[1]), numbers(strings.Join(f[3:], " "))
		if major == ram || major == loop || len(n) < 7 || n[0]+n[4] == 0 {
			continue
		}
		all = append(all, &tetherv1.BlockStats{
			Major: uint32(major), Minor: uint32(minor), Reads: n[0], ReadBytes: n[2] * sector, Writes: n[4], WriteBytes: n[6] * sector,
		})
	}
	return all
}

// number reads a file of the cgroup that holds one number; "max" is 0.
func (s Source) number(name string) (uint64, error) {
	text, err := s.cgroup(name)
	return parse(string(bytes.TrimSpace(text))), err
}

func (s Source) cgroup(name string) ([]byte, error) {
	f, err := s.Cgroup(name)
	if err != nil {
		return nil, err
	}
	return readAll(f)
}

func (s Source) proc(name string) ([]byte, error) {
	f, err := os.Open(s.Proc + "/" + name)
	if err != nil {
		return nil, fmt.Errorf("cannot read counters: %w", err)
	}
	return readAll(f)
}

func readAll(f *os.File) ([]byte, error) {
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, fmt.Errorf("cannot read counters: %w", err)
	}
	return text, nil
}

// keyed decodes lines of a name and a number.
func keyed(text []byte) map[string]uint64 {
	all := map[string]uint64{}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 2 {
			all[f[0]] = parse(f[1])
		}
	}
	return all
}

func numbers(text string) []uint64 {
	var all []uint64
	for _, f := range strings.Fields(text) {
		all = append(all, parse(f))
	}
	return all
}

// parse reads a number of the kernel's; anything else is 0.
func parse(text string) uint64 {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0
	}
	return n
}
