package vm

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// MemoryOvercommit is how many times the host's memory may be promised to running VMs. Guests touch a fraction of what
// they are given, and forks share most of it; beyond this factor a power-on is refused.
const MemoryOvercommit = 4

// What a start needs of the memory that the host really has, so that a burst of starts is refused at its end, instead of
// the kernel's out-of-memory killer choosing among the VMs that run.
const (
	// ReserveMiB is what must be left of the host's available memory.
	ReserveMiB = 256
	// BootCostMiB is counted for a machine that boots: QEMU, and what a kernel and its tether touch.
	BootCostMiB = 96
	// ForkCostMiB is counted for a fork: QEMU, and the pages that are its own until its process runs.
	ForkCostMiB = 40
)

// forkCost is what a fork of src needs: one of a running VM copies the memory of its source as well, all of it at worst.
func forkCost(src *VM) int64 {
	if src.Frozen {
		return ForkCostMiB
	}
	return ForkCostMiB + int64(src.MemoryMiB)
}

// reserve admits the VM's memory or says what is missing. settled must follow.
func (i *Inventory) reserve(e *entry, cost int64) error {
	available, err := i.available()
	if err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if free := available - ReserveMiB - i.starting; cost > free {
		return &MemoryError{Where: "the host's memory that is not in use", Requested: cost, Available: max(free, 0)}
	}
	if err := i.promise(e); err != nil {
		return err
	}
	e.reserved, e.cost = true, cost
	i.starting += cost
	return nil
}

// promise checks the VM's memory against what may be promised; the caller holds mu.
func (i *Inventory) promise(e *entry) error {
	want := int64(e.vm.MemoryMiB)
	free := i.opt.HostMemoryMiB * MemoryOvercommit
	for _, other := range i.entries {
		if other.reserved {
			free -= int64(other.vm.MemoryMiB)
		}
	}
	if want > free {
		return &MemoryError{Where: "the host", Requested: want, Available: max(free, 0)}
	}
	return i.admitPool(e.vm.Pool, want)
}

// settled ends the time in which a start's cost is counted apart: from now on it shows in what is available, or the start
// has failed and needs nothing.
func (i *Inventory) settled(e *entry, runs bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.starting -= e.cost
	e.cost = 0
	if !runs {
		e.reserved = false
	}
}

func (i *Inventory) available() (int64, error) {
	if i.opt.MemAvailable != nil {
		return i.opt.MemAvailable()
	}
	return memAvailable()
}

// memAvailable returns MemAvailable of proc(5) in MiB: what can be used without swapping.
func memAvailable() (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("cannot measure the host's memory: %w", err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "MemAvailable:"); ok {
			var kib int64
			if _, err := fmt.Sscan(rest, &kib); err != nil {
				return 0, fmt.Errorf("cannot measure the host's memory: %w", err)
			}
			return kib >> 10, nil
		}
	}
	return 0, fmt.Errorf("cannot measure the host's memory: /proc/meminfo has no MemAvailable")
}
