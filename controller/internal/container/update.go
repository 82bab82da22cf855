package container

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/containervm/containervm/controller/internal/record"
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
	if strings.TrimPrefix(name, "/") == c.Name {
		return invalid("Renaming a container with the same name as its current name")
	}
	name, release, err := s.ClaimName("/" + strings.TrimPrefix(name, "/"))
	if err != nil {
		return newNameError(err)
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

// newNameError says in Docker's words why a name cannot be given.
func newNameError(err error) error {
	return fmt.Errorf("%s: %w", "Error when allocating new name", err)
}

// Update changes the limits of a container, and its restart policy. Zero fields stay as they are.
func (s *Service) Update(ctx context.Context, ref string, change container.UpdateConfig) error {
	c, err := s.Get(ref)
	if err != nil {
		return err
	}
	if change.RestartPolicy.Name != "" {
		if c, err = s.setPolicy(ctx, c.ID, change.RestartPolicy); err != nil {
			return err
		}
	}
	if err := s.updateLimits(ctx, c, change.Resources); err != nil {
		return err
	}
	s.Tell(&c, events.ActionUpdate, nil)
	return nil
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
