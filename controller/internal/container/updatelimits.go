package container

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// updateLimits changes limits of a container; those that are zero stay as they are. Of one that runs its guest changes them, and the host
// its share of the CPUs that the machine has: what the machine itself would have to be changed for is refused.
func (s *Service) updateLimits(ctx context.Context, c Container, change container.Resources) error {
	if !changesLimits(&change) {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	return s.changeNetworks(ctx, c.ID, func(c Container) error { // no start is in flight, and no other change
		rec := c.Container
		rec.HostConfig.Resources = withLimits(rec.HostConfig.Resources, &change)
		r := &rec.HostConfig.Resources
		if err := checkUpdate(&c, r, &change); err != nil {
			return err
		}
		want := sizeOf(r)
		if c.Running() {
			return s.updateRunning(ctx, c, &rec, want)
		}
		if c.Phase() == PhaseParked { // it boots with what it is to be
			if err := s.powerOff(c); err != nil {
				return err
			}
		}
		resize, err := s.limitsChange(&c, &rec)
		if err != nil {
			return err
		}
		resize.CPUs, resize.MemoryMiB = want.cpus, want.memoryMiB
		if s.host.LimitsCPUs() {
			resize.CPULimit = &want.limit
		}
		return s.host.Change(ctx, c.VM.Ref, resize)
	})
}

// changesLimits reports whether anything is to change.
func changesLimits(r *container.Resources) bool {
	return r.Memory != 0 || r.MemorySwap != 0 || r.NanoCPUs != 0 || r.CPUQuota != 0 || r.CPUPeriod != 0 || r.CPUShares != 0 ||
		r.CpusetCpus != "" || r.MemoryReservation != 0 || r.PidsLimit != nil
}

// withLimits is r with what a change says.
func withLimits(r container.Resources, change *container.Resources) container.Resources {
	set := func(to *int64, value int64) {
		if value != 0 {
			*to = value
		}
	}
	set(&r.Memory, change.Memory)
	set(&r.MemorySwap, change.MemorySwap)
	set(&r.CPUShares, change.CPUShares)
	set(&r.MemoryReservation, change.MemoryReservation)
	if change.NanoCPUs != 0 || change.CPUQuota != 0 || change.CPUPeriod != 0 {
		r.NanoCPUs, r.CPUQuota, r.CPUPeriod = change.NanoCPUs, change.CPUQuota, change.CPUPeriod
	}
	if change.CpusetCpus != "" {
		r.CpusetCpus = change.CpusetCpus
	}
	if change.PidsLimit != nil {
		pids := max(0, *change.PidsLimit) // Docker shows 0 for "none"
		r.PidsLimit = &pids
	}
	return r
}

// checkUpdate refuses what would be no limits of the container c.
func checkUpdate(c *Container, r, change *container.Resources) error {
	old := c.HostConfig.MemorySwap
	if change.Memory > 0 && change.MemorySwap == 0 && old > 0 && change.Memory > old {
		return updateConflict(c, "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time")
	}
	if err := checkSize(r); err != nil {
		return err
	}
	if err := checkSwap(r); err != nil {
		return err
	}
	fits := *r
	if c.Running() { // a part of the machine's CPUs leaves it all of them
		fits.NanoCPUs = int64(c.VM.CPUs) * nanoCPU
	}
	return checkResources(&fits)
}

func updateConflict(c *Container, why string) error {
	return errdefs.ErrConflict.WithMessage(fmt.Sprintf("Cannot update container %s: %s", c.ID, why))
}

// limitsChange is what a VM says of the limits of its container.
func (s *Service) limitsChange(c *Container, rec *record.Container) (vsphere.Change, error) {
	text, err := rec.Encode()
	if err != nil {
		return vsphere.Change{}, err
	}
	told := *rec
	told.Files = c.CopiedFiles()
	spec, err := s.encodeSpec(c.ID, &told, c.Endpoints())
	return vsphere.Change{Extra: map[string]string{record.KeyContainer: text, link.KeySpec: spec}}, err
}

// updateRunning changes the limits of a container that runs: the guest first, which can still refuse.
func (s *Service) updateRunning(ctx context.Context, c Container, rec *record.Container, want size) error {
	old := c.HostConfig.Resources
	r := &rec.HostConfig.Resources
	switch {
	case want.memoryMiB != c.VM.MemoryMiB || swapBytes(r) != swapBytes(&old):
		return updateConflict(&c, "it is running, and its machine's memory and swap cannot change then: stop the container first")
	case want.cpus > c.VM.CPUs:
		return updateConflict(&c, fmt.Sprintf(
			"it is running, and its machine has %d CPUs, which cannot become more then: ask for at most %d, or stop the container first", c.VM.CPUs, c.VM.CPUs))
	}
	change, err := s.limitsChange(&c, rec)
	if err != nil {
		return err
	}
	if r.NanoCPUs != old.NanoCPUs {
		if !s.host.LimitsCPUs() {
			return updateConflict(&c, "it is running, and the host cannot limit the time of its machine's CPUs: stop the container first")
		}
		limit := float64(r.NanoCPUs) / nanoCPU
		if r.NanoCPUs >= int64(c.VM.CPUs)*nanoCPU {
			limit = 0 // all that they can take
		}
		change.CPULimit = &limit
	}
	if err := s.tellLimits(ctx, &c, &rec.HostConfig); err != nil {
		return guest.Failed(err, "Cannot update container %s", c.ID)
	}
	if err := s.host.Change(ctx, c.VM.Ref, change); err != nil {
		return errors.Join(err, s.tellLimits(ctx, &c, &c.HostConfig))
	}
	return nil
}

// tellLimits has the guest of a container that runs set the limits of h.
func (s *Service) tellLimits(ctx context.Context, c *Container, h *container.HostConfig) error {
	var spec tetherv1.Spec
	limitSpec(&spec, h)
	return s.calls.Call(ctx, c.VM.Ref, func(ctx context.Context, t tetherv1.TetherService) error {
		_, err := t.Update(ctx, &tetherv1.UpdateRequest{
			PidsLimit: spec.PidsLimit, Cpus: spec.Cpus, MemoryReservationBytes: spec.MemoryReservationBytes, CpuWeight: spec.CpuWeight,
		})
		return err
	})
}
