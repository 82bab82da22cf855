// Package admission decides whether a host has the memory for one more machine.
package admission

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/inventory"
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

// ForkCost is what a fork of src needs, in MiB: one of a running VM copies the memory of its source as well, all of it at worst.
func ForkCost(src *vm.VM) int64 {
	if src.Frozen {
		return ForkCostMiB
	}
	return ForkCostMiB + int64(src.MemoryMiB)
}

// Admission counts the starts that are in flight. What runs is in the inventory.
type Admission struct {
	inv       *inventory.Inventory
	hostMiB   int64
	available func() (int64, error)

	mu       sync.Mutex
	starting map[string]int64 // the costs in MiB of the starts in flight, by VM
}

// New returns the admission to a host. available returns the memory in MiB that it could give away now; nil: /proc/meminfo says it.
func New(inv *inventory.Inventory, hostMiB int64, available func() (int64, error)) *Admission {
	if available == nil {
		available = memAvailable
	}
	return &Admission{inv: inv, hostMiB: hostMiB, available: available, starting: map[string]int64{}}
}

// Admit admits the start of a VM that needs cost MiB at once, or says what is missing. It is counted apart until settle is called:
// from then on its cost shows in what is available, or the start has failed and needs nothing.
func (a *Admission) Admit(v *vm.VM, cost int64) (settle func(), err error) {
	available, err := a.available()
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	free := available - ReserveMiB
	for _, other := range a.starting {
		free -= other
	}
	if cost > free {
		return nil, missing(cost, free)
	}
	if err := a.promiseLocked(v); err != nil {
		return nil, err
	}
	a.starting[v.Ref] = cost
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.starting, v.Ref)
	}, nil
}

// Prestart says whether there is the memory for a fork that nobody waits for.
func (a *Admission) Prestart() error {
	available, err := a.available()
	if err != nil {
		return err
	}
	if free := available - ReserveMiB; free < ForkCostMiB {
		return missing(ForkCostMiB, free)
	}
	return nil
}

func missing(cost, free int64) error {
	return &vm.MemoryError{Where: "the host's memory that is not in use", Requested: cost, Available: max(free, 0)}
}

// promiseLocked checks the VM's memory against what may still be promised, by the host and by the pools that it is in. The caller
// holds mu.
func (a *Admission) promiseLocked(v *vm.VM) error {
	want, free := int64(v.MemoryMiB), a.hostMiB*MemoryOvercommit
	pools := map[string]*vm.Pool{}
	for _, p := range a.inv.Pools() {
		pools[p.Ref] = p
	}
	used := map[string]int64{} // MiB, by pool
	for _, other := range a.inv.ListAll() {
		if _, starts := a.starting[other.Ref]; !starts && other.Power != vm.PoweredOn {
			continue
		}
		free -= int64(other.MemoryMiB)
		for p := pools[other.Pool]; p != nil; p = pools[p.Parent] {
			used[p.Ref] += int64(other.MemoryMiB)
		}
	}
	if want > free {
		return &vm.MemoryError{Where: "the host", Requested: want, Available: max(free, 0)}
	}
	for p := pools[v.Pool]; p != nil; p = pools[p.Parent] {
		if free := p.Memory.Limit - used[p.Ref]; p.Memory.Limit != vm.Unlimited && want > free {
			return &vm.MemoryError{Where: "resource pool " + p.Name, Requested: want, Available: max(free, 0)}
		}
	}
	return nil
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
