package container

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// A machine that runs has the disks of its container's volumes to itself, so one that is only parked has none: it gets them when its gate is
// opened. A machine that is off keeps those that it had, which keeps nobody from them.

// attached reports whether the machine has the disks of the container's volumes, if there are any.
func (c *Container) attached() bool { return c.VM.Extra[record.KeyDisks] == record.Attached }

// addDisks has a change of the machine give it the disks that it lacks.
func (c *Container) addDisks(change *vsphere.Change) {
	if all := Disks(&c.Container); len(all) > 0 && !c.attached() {
		change.Disks, change.Extra[record.KeyDisks] = all, record.Attached
	}
}

// diskInUse says of a start that failed, since another machine has a disk, which container that is and what can be done. Other errors, and
// nil, stay as they are.
func (s *Service) diskInUse(c *Container, err error) error {
	if _, inUse := vsphere.InUse(err); !inUse {
		return err
	}
	for _, other := range s.All() {
		if other.ID == c.ID || !other.On() || !other.attached() {
			continue
		}
		for _, m := range c.Mounts {
			i := slices.IndexFunc(other.Mounts, func(o record.Mount) bool { return m.Disk != nil && o.Disk != nil && o.Disk.Path == m.Disk.Path })
			if i < 0 || m.Disk.ReadOnly && other.Mounts[i].Disk.ReadOnly {
				continue
			}
			does := "writes it"
			if other.Mounts[i].Disk.ReadOnly {
				does = "reads it"
			}
			return errdefs.ErrConflict.WithMessage(fmt.Sprintf(
				"volume %s is in use by %s, which %s: use an NFS volume to share it, or mount it read-only in both", m.Volume, &other, does))
		}
	}
	return err
}

// endWriting has the guest of a machine that is about to be ended let go of the volumes that outlive it, all but those that go with the
// container: what it has not written yet would be lost with it, and Docker's volumes keep it. A guest that does not do so in time is ended.
func (s *Service) endWriting(ctx context.Context, c Container, doomed []string) {
	if now, ok := s.host.Get(c.ID); ok {
		c = c.at(now)
	}
	keeps := func(m record.Mount) bool {
		return !m.ReadOnly && m.ForkedFrom == "" && (m.NFS != nil || m.Disk != nil) &&
			(!slices.Contains(doomed, m.Volume) || len(s.VolumeUsers(m.Volume)) > 1)
	}
	if !c.On() || c.shut() || !slices.ContainsFunc(c.Mounts, keeps) {
		return
	}
	if c.Phase() == PhaseRunning {
		err := s.calls.Tell(ctx, c.VM, func(ctx context.Context, t tetherv1.TetherService) error {
			_, err := t.Signal(ctx, &tetherv1.SignalRequest{Session: link.MainSession, Signal: int32(unix.SIGKILL)})
			return err
		})
		if err != nil { // or it was so fast that its answer was lost
			s.log.Info("a tether may not have taken a kill", "container", c.ID, "err", err)
		}
	}
	s.settleOff(c)
}

// detach takes the disks of volumes from a machine that is off and is to be destroyed: they outlive it. Those of a fork are its own.
func (s *Service) detach(ctx context.Context, c Container) error {
	var units []int
	for _, m := range c.Mounts {
		if m.Disk != nil && m.ForkedFrom == "" {
			units = append(units, m.Disk.Unit)
		}
	}
	if len(units) == 0 || !c.attached() {
		return nil
	}
	extra := map[string]string{record.KeyDisks: ""}
	if slices.ContainsFunc(c.Mounts, func(m record.Mount) bool { return m.Disk != nil && m.ForkedFrom != "" }) {
		extra = nil // it has its own still, so that nothing is to be attached before it starts
	}
	return s.host.DetachDisks(ctx, c.VM.Ref, units, extra)
}

// ownVolumes are the volumes that were made for a container alone, and go with it where that is asked for. The copies that a fork has go with
// its machine.
func (c *Container) ownVolumes() []string {
	var names []string
	for _, m := range c.Mounts {
		if m.Anonymous && m.Volume != "" && m.ForkedFrom == "" && !slices.Contains(names, m.Volume) {
			names = append(names, m.Volume)
		}
	}
	return names
}
