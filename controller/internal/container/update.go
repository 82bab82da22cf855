package container

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// Rename gives a container another name.
func (s *Service) Rename(ctx context.Context, ref, name string) error {
	if name == "" {
		return invalid("Neither old nor new names may be empty")
	}
	c, err := s.Get(ref)
	if err != nil {
		return err
	}
	name, release, err := s.ClaimName(name)
	if err != nil {
		return err
	}
	defer release()
	return s.changeNetworks(ctx, c.ID, func(c Container) error {
		change := map[string]string{record.KeyName: name}
		if c.VM.Extra[hostapi.KeyNet] != "" { // who is parked is told when it starts
			if change[hostapi.KeyNet], err = s.HostNet(c.ID, name, &c.Container, c.Endpoints()); err != nil {
				return err
			}
		}
		return s.host.Reconfigure(ctx, c.VM.Ref, change)
	})
}

// Update changes the limits of a container that does not run. Zero fields stay as they are.
func (s *Service) Update(ctx context.Context, ref string, change container.Resources) error {
	c, err := s.Get(ref)
	if err != nil {
		return err
	}
	if change.Memory == 0 && change.NanoCPUs == 0 && change.CPUQuota == 0 {
		return nil
	}
	if c.Running() {
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf(
			"Cannot update container %s: it is running, and its machine's memory and CPUs cannot change then: stop the container first", c.ID))
	}
	rec := c.Container
	r := &rec.HostConfig.Resources
	if change.Memory != 0 {
		r.Memory, r.MemorySwap = change.Memory, change.MemorySwap
	}
	if change.NanoCPUs != 0 || change.CPUQuota != 0 {
		r.NanoCPUs, r.CPUQuota, r.CPUPeriod = change.NanoCPUs, change.CPUQuota, change.CPUPeriod
	}
	if err := checkSize(r); err != nil {
		return err
	}
	if err := s.unpark(ctx, c); err != nil {
		return err
	}
	size := sizeOf(r)
	text, err := rec.Encode()
	if err != nil {
		return err
	}
	resize := vsphere.Change{CPUs: size.cpus, MemoryMiB: size.memoryMiB, Extra: map[string]string{record.KeyContainer: text}}
	if s.host.LimitsCPUs() {
		resize.CPULimit = &size.limit
	}
	return s.host.Change(ctx, c.VM.Ref, resize)
}

// unpark ends a machine that waits at its gate. The container boots when it is started.
func (s *Service) unpark(ctx context.Context, c Container) error {
	release, err := s.AcquireStart(ctx, c.ID)
	if err != nil {
		return err
	}
	defer release()
	if c, err = s.Get(c.ID); err != nil || c.Phase() != PhaseParked {
		return err
	}
	return s.powerOff(c)
}

// Unpark ends all machines that wait at their gate: nothing of the host is to go on.
func (s *Service) Unpark(ctx context.Context) error {
	var failed []error
	for _, c := range s.All() {
		if c.Phase() == PhaseParked {
			failed = append(failed, s.unpark(ctx, c))
		}
	}
	return errors.Join(failed...)
}
