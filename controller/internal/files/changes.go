package files

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

const (
	// maxChange is the longest line that tells of a change: a path, each byte of which may take six in JSON.
	maxChange = 32 << 10
	// maxChanges bounds what is kept of a container's changes for one answer.
	maxChanges = 4_000_000
)

// Changes are what of a container's root differs from its image, in the order of their paths; nil: nothing.
func (s *Service) Changes(ctx context.Context, ref string) ([]container.FilesystemChange, error) {
	lines, err := s.compare(ctx, ref, tetherv1.ExportRequest_CHANGED_NAMES)
	if err != nil {
		return nil, err
	}
	defer lines.Close()
	return readChanges(lines)
}

func readChanges(r io.Reader) ([]container.FilesystemChange, error) {
	var all []container.FilesystemChange
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), maxChange)
	for lines.Scan() {
		var line struct {
			Path string
			Kind container.ChangeType
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil || line.Kind > container.ChangeDelete {
			return nil, fmt.Errorf("cannot read a change of the container: %.256q: %w", lines.Text(), errors.Join(err, errKind))
		}
		if len(all) == maxChanges {
			return nil, errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("the container has more than %d changes", maxChanges))
		}
		all = append(all, container.FilesystemChange{Path: line.Path, Kind: line.Kind})
	}
	slices.SortFunc(all, func(a, b container.FilesystemChange) int { return cmp.Compare(a.Path, b.Path) })
	return all, lines.Err()
}

var errKind = errors.New("it is neither changed, added nor deleted")

// Layer is the same as an uncompressed tar: an OCI layer over the container's image, with whiteouts. Its reader returns io.EOF when that is
// complete, and another error when it was cut off anywhere. The caller closes it, also in the middle, which ends the work.
func (s *Service) Layer(ctx context.Context, ref string) (io.ReadCloser, error) {
	return s.compare(ctx, ref, tetherv1.ExportRequest_CHANGES)
}

// compare begins an Export for which the container's machine has the disk of its image.
func (s *Service) compare(ctx context.Context, ref string, content tetherv1.ExportRequest_Content) (io.ReadCloser, error) {
	a, done, err := s.reach(ctx, ref, false)
	if err != nil {
		return nil, err
	}
	unlock, err := s.acquire(ctx, a)
	if err != nil {
		done()
		return nil, err
	}
	serial, detach, err := s.attachBase(ctx, a)
	if err != nil {
		unlock()
		done()
		return nil, err
	}
	r, err := s.export(ctx, a, &tetherv1.ExportRequest{Content: content, Base: serial}, func() {
		detach()
		unlock()
		done()
	})
	if err != nil {
		return nil, a.broken(err)
	}
	return r, nil
}

// acquireTime is how long a comparison waits for a start, a fork or another comparison of the container.
const acquireTime = 30 * time.Second

// acquire keeps a container from being forked, or compared by another, while its machine has one disk more: a fork would have that too.
func (s *Service) acquire(ctx context.Context, a access) (release func(), err error) {
	wait, cancel := context.WithTimeout(ctx, acquireTime)
	defer cancel()
	release, err = s.containers.AcquireStart(wait, a.c.ID)
	if err != nil && ctx.Err() == nil {
		err = errdefs.ErrConflict.WithMessage(fmt.Sprintf("cannot compare %s with its image: a start, a fork or another comparison of it is in flight", &a.c))
	}
	return release, err
}

// attachBase gives a machine the disk that the container's own is a delta of, to read it.
func (s *Service) attachBase(ctx context.Context, a access) (serial string, detach func(), err error) {
	disk := s.images.DiskOf(a.c.ImageID)
	if disk == "" {
		return "", nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("the image of %s is not here any more: its changes cannot be told", &a.c))
	}
	unit, err := freeUnit(&a.c)
	if err != nil {
		return "", nil, err
	}
	ctx = context.WithoutCancel(ctx)
	if err := s.host.AttachDisks(ctx, a.vm, []vsphere.DataDisk{{Unit: unit, Path: disk, ReadOnly: true}}, nil); err != nil {
		return "", nil, fmt.Errorf("cannot compare %s with its image: %w", &a.c, err)
	}
	return hostapi.DiskSerial(unit), func() {
		err := s.host.DetachDisks(ctx, a.vm, []int{unit}, nil)
		if now, ok := s.host.Get(a.c.ID); err != nil && ok && now.PowerState == vsphere.PoweredOn {
			s.log.Warn("the disk of a container's image stays in its machine", "container", a.c.ID, "err", err)
		}
	}, nil
}

// freeUnit is a unit at which the machine of a container has no disk.
func freeUnit(c *ctr.Container) (int, error) {
	taken := map[int]bool{7: true} // the controller's own
	for _, m := range c.Mounts {
		if m.Disk != nil {
			taken[m.Disk.Unit] = true
		}
	}
	for unit := hostapi.MaxDataDisks + 1; unit > 0; unit-- {
		if !taken[unit] {
			return unit, nil
		}
	}
	return 0, errdefs.ErrConflict.WithMessage(fmt.Sprintf(
		"%s has %d volumes, the most that its machine can have: there is no room for its image's disk, with which it would be compared", c, hostapi.MaxDataDisks))
}
