package container

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/sys/capability"

	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

const (
	// maxSwap is the most swap of a machine, in bytes: half of its root disk.
	maxSwap = 32 << 30
	// unlimitedSwap is how much swap a machine has whose swap is not to have a limit, in units of its memory.
	unlimitedSwap = 2
	// minReservation is Docker's least memory reservation, in bytes.
	minReservation = 6 * mib
	// minShares and maxShares bound CPU shares (Linux: MIN_SHARES, MAX_SHARES of kernel/sched/sched.h).
	minShares, maxShares = 2, 1 << 18
	// allCapabilities stands for each of them in a request.
	allCapabilities = "ALL"
	// noNewPrivileges is the security option by that name.
	noNewPrivileges = "no-new-privileges"
)

// checkLimits refuses what the tether could not do for a container. It leaves h as it is.
func checkLimits(h *container.HostConfig) error {
	if _, err := capabilities(h); err != nil {
		return err
	}
	if err := checkSwap(&h.Resources); err != nil {
		return err
	}
	if err := checkResources(&h.Resources); err != nil {
		return err
	}
	switch {
	case h.OomScoreAdj < -1000 || h.OomScoreAdj > 1000:
		return invalid("Invalid value %d, range for oom score adj is [-1000, 1000]", h.OomScoreAdj)
	case h.ShmSize < 0:
		return invalid("SHM size can not be less than 0")
	case h.Umask != nil && *h.Umask > 0o777:
		return invalid("invalid umask %o: must be 0 to 0777", *h.Umask)
	}
	for _, name := range slices.Sorted(maps.Keys(h.Sysctls)) {
		if _, err := link.SysctlPath(name, h.Sysctls[name]); err != nil {
			return invalid("sysctl '%s' is not allowed: %v", name, err)
		}
	}
	for _, p := range slices.Concat(h.MaskedPaths, h.ReadonlyPaths) {
		if !path.IsAbs(p) {
			return invalid("masked and read-only paths must be absolute: %q", p)
		}
	}
	return nil
}

// checkSwap refuses what cannot be a machine's swap.
func checkSwap(r *container.Resources) error {
	switch {
	case r.MemorySwap > 0 && r.Memory == 0:
		return invalid("You should always set the Memory limit when using Memoryswap limit, see usage")
	case r.MemorySwap < -1:
		return invalid("invalid memory swap %d: must be -1 or more", r.MemorySwap)
	case r.MemorySwap > 0 && r.MemorySwap-r.Memory > maxSwap:
		return invalid("%d bytes of swap, at most %d are possible: it is on the container's own disk", r.MemorySwap-r.Memory, int64(maxSwap))
	case r.MemorySwappiness != nil && (*r.MemorySwappiness < -1 || *r.MemorySwappiness > 100):
		return invalid("Invalid value: %d, valid memory swappiness range is 0-100", *r.MemorySwappiness)
	}
	return nil
}

// checkResources refuses limits that the container's cgroup and processes cannot have.
func checkResources(r *container.Resources) error {
	switch {
	case r.MemoryReservation < 0 || r.MemoryReservation > 0 && r.MemoryReservation < minReservation:
		return invalid("Minimum memory reservation allowed is 6MB")
	case r.Memory > 0 && r.MemoryReservation > r.Memory:
		return invalid("Minimum memory limit can not be less than memory reservation limit, see usage")
	case r.CPUShares < 0:
		return invalid("invalid CPU shares (%d): value must be a positive integer", r.CPUShares)
	case r.CPUShares > 0 && r.CPUShares < minShares:
		return invalid("the minimum allowed cpu-shares is %d", minShares)
	case r.CPUShares > maxShares:
		return invalid("the maximum allowed cpu-shares is %d", maxShares)
	}
	filled := *r // sizeOf writes its defaults
	size := sizeOf(&filled)
	if r.Memory == 0 && r.MemoryReservation > filled.Memory {
		return invalid("a memory reservation of %d bytes is more than the machine's memory, %d: ask for more memory", r.MemoryReservation, filled.Memory)
	}
	if err := checkCPUSet(r.CpusetCpus, size.cpus); err != nil {
		return err
	}
	for _, u := range r.Ulimits {
		if err := checkUlimit(u); err != nil {
			return err
		}
	}
	return nil
}

func checkUlimit(u *units.Ulimit) error {
	if u == nil {
		return invalid("invalid ulimit: null")
	}
	if _, err := u.GetRlimit(); err != nil {
		return invalid("%v", err)
	}
	if u.Soft < -1 || u.Hard < -1 {
		return invalid("invalid ulimit %s: a limit must be -1 or more", u.Name)
	}
	if u.Hard != -1 && (u.Soft == -1 || u.Soft > u.Hard) {
		return invalid("ulimit soft limit must be less than or equal to hard limit: %d > %d", u.Soft, u.Hard)
	}
	return nil
}

// checkCPUSet refuses CPUs that a machine of so many has not. They are the machine's own, which are numbered from 0.
func checkCPUSet(set string, cpus int) error {
	wanted, err := cpuSet(set)
	if err != nil {
		return invalid("Invalid value %s for cpuset cpus: %v", set, err)
	}
	if len(wanted) > 0 && wanted[len(wanted)-1] >= cpus {
		available := "0"
		if cpus > 1 {
			available = fmt.Sprintf("0-%d", cpus-1)
		}
		return invalid("Requested CPUs are not available - requested %s, available: %s: they are those of the container's own machine, which --cpus gives it",
			set, available)
	}
	return nil
}

// cpuSet reads a list of CPUs as cpuset(7) has it, such as "0-2,5", into their numbers in order.
func cpuSet(text string) ([]int, error) {
	if text == "" {
		return nil, nil
	}
	malformed := fmt.Errorf("invalid format: %s", text)
	var all []int
	for part := range strings.SplitSeq(text, ",") {
		low, high, ranged := strings.Cut(part, "-")
		first, err := strconv.ParseUint(low, 10, 16)
		last := first
		if err == nil && ranged {
			last, err = strconv.ParseUint(high, 10, 16)
		}
		if err != nil || last < first {
			return nil, malformed
		}
		if last > maxCPUs {
			return nil, errors.New("value out of range")
		}
		for n := first; n <= last; n++ {
			all = append(all, int(n))
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// capabilities are those that a container's processes can have; nil: all, which is what they have that ask for nothing, since a machine
// of its own is at no one else's expense. Otherwise adding and dropping are Docker's.
func capabilities(h *container.HostConfig) (*tetherv1.Capabilities, error) {
	add, err := capabilityNames(h.CapAdd)
	if err != nil {
		return nil, invalid("invalid CapAdd: %v", err)
	}
	drop, err := capabilityNames(h.CapDrop)
	if err != nil {
		return nil, invalid("invalid CapDrop: %v", err)
	}
	if h.Privileged || len(drop) == 0 {
		return nil, nil
	}
	var kept []string
	for _, c := range capability.ListKnown() {
		name := capabilityName(c.String())
		dropped := slices.Contains(drop, name) || slices.Contains(drop, allCapabilities) && !slices.Contains(add, allCapabilities)
		if !dropped || slices.Contains(add, name) {
			kept = append(kept, name)
		}
	}
	return &tetherv1.Capabilities{Names: kept}, nil
}

func capabilityName(name string) string {
	name = strings.ToUpper(name)
	if name == allCapabilities || strings.HasPrefix(name, "CAP_") {
		return name
	}
	return "CAP_" + name
}

// capabilityNames are names as Docker takes them: in any case, with CAP_ or without, or ALL.
func capabilityNames(given []string) ([]string, error) {
	var names []string
	for _, g := range given {
		name := capabilityName(g)
		known := slices.ContainsFunc(capability.ListKnown(), func(c capability.Cap) bool { return capabilityName(c.String()) == name })
		if !known && name != allCapabilities {
			return nil, fmt.Errorf("unknown capability: %q", name)
		}
		names = append(names, name)
	}
	return names, nil
}

// limitSpec says what a container's limits are to its tether.
func limitSpec(spec *tetherv1.Spec, h *container.HostConfig) {
	spec.Sysctls = sysctls(h)
	spec.ShmBytes = uint64(h.ShmSize)
	if h.PidsLimit != nil && *h.PidsLimit > 0 {
		spec.PidsLimit = *h.PidsLimit
	}
	spec.Init = h.Init != nil && *h.Init
	spec.MaskedPaths, spec.ReadOnlyPaths = h.MaskedPaths, h.ReadonlyPaths
	spec.Cpus = h.CpusetCpus
	spec.MemoryReservationBytes = uint64(h.MemoryReservation)
	spec.SwapBytes = uint64(swapBytes(&h.Resources))
	spec.CpuWeight = cpuWeight(h.CPUShares)
	spec.AllDevices = h.Privileged
}

// swapBytes is how much swap a machine has: none unless it was asked for. Docker's default is as much as memory where the host has swap
// of its own; ours would be made anew at each start.
func swapBytes(r *container.Resources) int64 {
	memory := r.Memory
	if memory == 0 {
		memory = defaultMemory
	}
	switch {
	case r.MemorySwap == -1:
		return min(unlimitedSwap*memory, maxSwap)
	case r.MemorySwap > memory:
		return r.MemorySwap - memory
	default:
		return 0
	}
}

// cpuWeight is cpu.weight for Docker's CPU shares, by the conversion that OCI runtimes use: 2 to 262144 become 1 to 10000. 0 stays 0.
func cpuWeight(shares int64) uint64 {
	if shares == 0 {
		return 0
	}
	return 1 + (uint64(shares)-minShares)*9999/(maxShares-minShares)
}

// sysctls are a container's parameters of the kernel, by name. How eager the kernel swaps is one of them.
func sysctls(h *container.HostConfig) []*tetherv1.Sysctl {
	var all []*tetherv1.Sysctl
	for _, name := range slices.Sorted(maps.Keys(h.Sysctls)) {
		all = append(all, &tetherv1.Sysctl{Name: name, Value: h.Sysctls[name]})
	}
	if s := h.MemorySwappiness; s != nil && *s >= 0 {
		all = append(all, &tetherv1.Sysctl{Name: "vm.swappiness", Value: strconv.FormatInt(*s, 10)})
	}
	return all
}

// Restrict gives a process of a container the limits that its request asked for. privileged: it has all capabilities nevertheless.
func Restrict(p *tetherv1.Process, h *container.HostConfig, privileged bool) {
	p.Rlimits = rlimits(h.Ulimits)
	p.OomScoreAdj = int32(h.OomScoreAdj)
	p.NoNewPrivileges = forbidsPrivileges(h.SecurityOpt)
	if h.Umask != nil {
		p.Umask = &tetherv1.Umask{Mask: *h.Umask}
	}
	if !privileged {
		p.Capabilities, _ = capabilities(h) // they were checked
	}
}

// forbidsPrivileges reads the option no-new-privileges among a container's security options, with or without a value; the last counts.
func forbidsPrivileges(options []string) (forbids bool) {
	for _, option := range options {
		name, value, given := strings.Cut(strings.Replace(option, ":", "=", 1), "=")
		if name == noNewPrivileges {
			on, err := strconv.ParseBool(value)
			forbids = !given || err == nil && on
		}
	}
	return forbids
}

// rlimits are the resource limits of a process.
func rlimits(limits []*units.Ulimit) []*tetherv1.Rlimit {
	var out []*tetherv1.Rlimit
	for _, l := range limits {
		out = append(out, &tetherv1.Rlimit{Name: l.Name, Soft: uint64(l.Soft), Hard: uint64(l.Hard)}) // -1 is RLIM_INFINITY
	}
	return out
}

// limitWarnings say what became of limits that a machine cannot have as they are.
func limitWarnings(h *container.HostConfig) []string {
	if h.MemorySwap != -1 {
		return nil
	}
	return []string{fmt.Sprintf("Swap is limited to %s: it is on the container's own disk.", units.BytesSize(float64(swapBytes(&h.Resources))))}
}
