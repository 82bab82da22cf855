package qemu

import (
	"os"

	"github.com/containervm/containervm/hostd-bridge/internal/cgroup"
)

// What a machine's processes may take of their host beside the guest's memory, in bytes.
const (
	// allowance is for QEMU's and the supervisor's own memory, the kernel's for them, and the files that they read and write meanwhile.
	allowance = 192 << 20
	// translations bounds the code that QEMU has translated under TCG, whose own default is 1 GiB whatever the guest's size.
	translations = 256 << 20
)

// maxThreads is how many threads a machine's processes may have beside the guest's CPUs: QEMU has up to 64 for the disks.
const maxThreads = 256

// overhead is what a machine's processes may take beside the guest's memory, in bytes.
func (h *Hypervisor) overhead() int64 {
	if h.host.accel == accelTCG {
		return allowance + translations
	}
	return allowance
}

// limits are those of a machine; ram is the memory of a child's template, nil of a machine that boots.
//
// A child's pages that are still its template's are on the template's account. When it is the first to touch a page of which the template's memory has
// nothing, even to write to it, the kernel fills that of the template's file too, with zeros, on the child's account: at most once for each page
// of the file. So a child has room for what the file lacks beside all of its own memory.
func (h *Hypervisor) limits(s shape, ram *os.File) cgroup.Limits {
	cpus, memory := max(1, s.cpus), int64(s.memoryMiB)
	if of := (&template{ram: ram}); ram != nil {
		memory += int64(of.MemoryMiB() - of.ResidentMiB())
	}
	return cgroup.Limits{CPUs: cpus, MemoryBytes: memory<<20 + h.overhead(), PIDs: int64(maxThreads + cpus)}
}

// ungroup removes the control group of a machine that has ended.
func (h *Hypervisor) ungroup(g *cgroup.Group) {
	if err := g.Remove(); err != nil {
		h.config.Log.Warn("something is left of a machine that has ended", "err", err)
	}
}
