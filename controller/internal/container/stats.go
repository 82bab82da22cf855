package container

import (
	"context"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/internal/printable"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// maxCounters bounds the networks, disks and names of memory counters that are taken from a guest's answer.
const maxCounters = 256

// Stats is what a container uses, without an earlier sample; of one that does not run it is nothing but its names, as in Docker.
func (s *Service) Stats(ctx context.Context, c Container) (container.StatsResponse, error) {
	if !c.Running() {
		return container.StatsResponse{ID: c.ID, Name: "/" + c.Name, OSType: "linux"}, nil
	}
	var res *tetherv1.StatsResponse
	err := s.calls.Call(ctx, c.VM.Ref, func(ctx context.Context, t tetherv1.TetherService) (err error) {
		res, err = t.Stats(ctx, &tetherv1.StatsRequest{})
		return err
	})
	if err != nil {
		if now, found := s.host.Get(c.ID); found && isOff(now) { // it has ended meanwhile
			return container.StatsResponse{ID: c.ID, Name: "/" + c.Name, OSType: "linux"}, nil
		}
		return container.StatsResponse{}, guest.Failed(err, "cannot read what %s uses", &c)
	}
	return dockerStats(&c, res, time.Now()), nil
}

// dockerStats are a guest's counters in Docker's form for cgroup v2. The limit of memory is the machine's, as it was asked for: the guest's
// kernel takes its part of it.
func dockerStats(c *Container, r *tetherv1.StatsResponse, now time.Time) container.StatsResponse {
	cpu, memory := r.GetCpu(), r.GetMemory()
	s := container.StatsResponse{
		ID: c.ID, Name: "/" + c.Name, OSType: "linux", Read: now.UTC(),
		CPUStats: container.CPUStats{
			CPUUsage: container.CPUUsage{
				TotalUsage: cpu.GetUsage() * 1000, UsageInKernelmode: cpu.GetSystem() * 1000, UsageInUsermode: cpu.GetUser() * 1000,
			},
			SystemUsage: cpu.GetMachineTotal() * 1000, OnlineCPUs: cpu.GetOnline(),
			ThrottlingData: container.ThrottlingData{
				Periods: cpu.GetPeriods(), ThrottledPeriods: cpu.GetThrottledPeriods(), ThrottledTime: cpu.GetThrottled() * 1000,
			},
		},
		MemoryStats: container.MemoryStats{Usage: memory.GetUsage(), Limit: memory.GetLimit(), Stats: map[string]uint64{}},
		PidsStats:   container.PidsStats{Current: r.GetPids(), Limit: r.GetPidsLimit()},
		BlkioStats: container.BlkioStats{
			IoServiceBytesRecursive: []container.BlkioStatEntry{}, IoServicedRecursive: []container.BlkioStatEntry{},
			IoQueuedRecursive: []container.BlkioStatEntry{}, IoServiceTimeRecursive: []container.BlkioStatEntry{},
			IoWaitTimeRecursive: []container.BlkioStatEntry{}, IoMergedRecursive: []container.BlkioStatEntry{},
			IoTimeRecursive: []container.BlkioStatEntry{}, SectorsRecursive: []container.BlkioStatEntry{},
		},
	}
	if machine := uint64(c.VM.MemoryMiB) * mib; machine > 0 && memory.GetLimit() == memory.GetMachineTotal() {
		s.MemoryStats.Limit = machine
	}
	for name, n := range memory.GetStat() {
		if len(s.MemoryStats.Stats) < maxCounters {
			s.MemoryStats.Stats[printable.Text(name)] = n
		}
	}
	for i, n := range r.GetNetworks() {
		if i >= maxCounters {
			break
		}
		if s.Networks == nil {
			s.Networks = map[string]container.NetworkStats{}
		}
		s.Networks[printable.Text(n.GetName())] = container.NetworkStats{
			RxBytes: n.GetRxBytes(), RxPackets: n.GetRxPackets(), RxErrors: n.GetRxErrors(), RxDropped: n.GetRxDropped(),
			TxBytes: n.GetTxBytes(), TxPackets: n.GetTxPackets(), TxErrors: n.GetTxErrors(), TxDropped: n.GetTxDropped(),
		}
	}
	for i, b := range r.GetBlocks() {
		if i >= maxCounters {
			break
		}
		add := func(all *[]container.BlkioStatEntry, op string, n uint64) {
			*all = append(*all, container.BlkioStatEntry{Major: uint64(b.GetMajor()), Minor: uint64(b.GetMinor()), Op: op, Value: n})
		}
		add(&s.BlkioStats.IoServiceBytesRecursive, "read", b.GetReadBytes())
		add(&s.BlkioStats.IoServiceBytesRecursive, "write", b.GetWriteBytes())
		add(&s.BlkioStats.IoServicedRecursive, "read", b.GetReads())
		add(&s.BlkioStats.IoServicedRecursive, "write", b.GetWrites())
	}
	return s
}
