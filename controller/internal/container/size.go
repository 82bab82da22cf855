package container

import (
	"context"
	"path"

	"github.com/moby/moby/api/types/container"

	"github.com/containervm/containervm/controller/internal/template"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

const (
	mib = 1 << 20
	// defaultMemory is what a container gets that asks for no limit, in bytes.
	defaultMemory = 512 * mib
	// minMemory is the least memory in which the kernel, the tether and a small process live, in bytes.
	minMemory = 64 * mib
	// nanoCPU is one CPU in Docker's unit.
	nanoCPU = 1_000_000_000
)

// size is a machine's size.
type size struct {
	cpus, memoryMiB int
	limit           float64 // of the host's CPU time, in CPUs; 0: all that the machine's CPUs can take
}

// DefaultSize is that of a container that asks for no limits.
func DefaultSize() template.Size {
	s := sizeOf(&container.Resources{})
	return template.Size{CPUs: s.cpus, MemoryMiB: s.memoryMiB}
}

// sizeOf is the machine's size for the limits of a request, which gets the defaults written in. Memory is rounded up to
// whole MiB and CPUs to whole virtual CPUs: a machine has no fractions of them. The host's limit of CPU time makes up for that.
func sizeOf(r *container.Resources) size {
	if r.Memory == 0 {
		r.Memory = defaultMemory
	}
	if r.NanoCPUs == 0 {
		r.NanoCPUs = cpusAsked(r)
	}
	s := size{
		cpus:      int((r.NanoCPUs + nanoCPU - 1) / nanoCPU),
		memoryMiB: int((r.Memory + mib - 1) / mib),
	}
	if r.NanoCPUs%nanoCPU != 0 {
		s.limit = float64(r.NanoCPUs) / nanoCPU
	}
	return s
}

// limit is the host's limit of a planned machine's CPU time; 0: none.
func (s *Service) limit(p *plan) float64 {
	if !s.host.LimitsCPUs() {
		return 0
	}
	return p.size.limit
}

// sizeWarnings says what of a size the host does not do.
func (s *Service) sizeWarnings(want size) []string {
	if want.limit == 0 || s.host.LimitsCPUs() {
		return nil
	}
	return []string{"CPUs are rounded up to whole virtual CPUs: the host cannot limit the time of its CPUs."}
}

// cpusAsked derives CPUs, in billionths, from the CFS quota that older clients send; one without.
func cpusAsked(r *container.Resources) int64 {
	period := r.CPUPeriod
	if period == 0 {
		period = 100_000 // µs; the kernel's default (Documentation/scheduler/sched-bwc.rst)
	}
	if r.CPUQuota <= 0 {
		return nanoCPU
	}
	return r.CPUQuota * nanoCPU / period
}

// checkSize refuses limits that no machine can have.
func checkSize(r *container.Resources) error {
	switch {
	case r.Memory < 0:
		return invalid("invalid memory limit %d: must not be negative", r.Memory)
	case r.Memory != 0 && r.Memory < minMemory:
		return invalid("Minimum memory limit allowed is %dMB: a containerVM holds its own kernel", minMemory/mib)
	case r.NanoCPUs < 0, r.CPUQuota < 0 && r.CPUQuota != -1, r.CPUPeriod < 0:
		return invalid("invalid CPU limit: must not be negative")
	case r.NanoCPUs > maxCPUs*nanoCPU, r.NanoCPUs > 0 && r.NanoCPUs < nanoCPU/100:
		return invalid("Range of CPUs is from 0.01 to %d.00, as a machine has at most %d", maxCPUs, maxCPUs)
	case r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return invalid("Minimum memoryswap limit should be larger than memory limit, see usage")
	default:
		return nil
	}
}

// maxCPUs is the most virtual CPUs that a request may ask for; the host may allow fewer.
const maxCPUs = 255

// DiskUse is how many bytes the container's own disk takes on the datastore, and how many that and its image's files take.
func (s *Service) DiskUse(ctx context.Context, c Container) (own, all int64, err error) {
	disk, err := s.host.Stat(ctx, path.Join(c.ID, hostapi.RootDisk))
	if err != nil {
		return 0, 0, err
	}
	return disk.Size, disk.Size + s.images.SizeOf(c.ImageID), nil
}
