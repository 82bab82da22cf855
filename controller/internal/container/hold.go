package container

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// holdTime is how long the processes may take to stand still: longer than a tether waits for its kernel.
const holdTime = 15 * time.Second

// holdProcess stops the processes of a container where they stand. With atPoint it first waits, as long as the client does,
// until one of them asks to be forked. When it fails nothing is held, or will be.
func (s *Service) holdProcess(ctx context.Context, c Container, atPoint bool) error {
	l, err := s.host.Link(ctx, c.VM.Ref)
	if err != nil {
		return err
	}
	if !atPoint {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, holdTime)
		defer cancel()
	}
	// A tether does not see that its caller gave up: the call goes on, and what it holds in the end is let go.
	done := make(chan error, 1)
	go func() {
		_, err := l.Tether().Hold(context.WithoutCancel(ctx), &tetherv1.HoldRequest{AtPoint: atPoint})
		done <- err
	}()
	select {
	case err := <-done:
		return guest.Failed(err, "cannot hold its processes")
	case <-ctx.Done():
		go s.letGo(c, done)
		return fmt.Errorf("its processes do not stand still: %w", ctx.Err())
	}
}

// letGo ends a hold that nobody waits for any more, now and when it comes to hold.
func (s *Service) letGo(c Container, held <-chan error) {
	release := func() {
		if err := s.releaseProcess(context.Background(), c, nil); err != nil && !errdefs.IsFailedPrecondition(err) {
			s.log.Warn("cannot let the processes of a container go on", "container", c.ID, "err", err)
		}
	}
	release()
	if err := <-held; err == nil { // ends with the link at the latest
		release()
	}
}

// releaseProcess lets the processes go on, also when the client has left. fork is the fork that was taken; nil: none.
func (s *Service) releaseProcess(ctx context.Context, c Container, fork *tetherv1.Fork) error {
	err := s.calls.Call(context.WithoutCancel(ctx), c.VM.Ref, func(ctx context.Context, t tetherv1.TetherService) error {
		_, err := t.Release(ctx, &tetherv1.ReleaseRequest{Fork: fork})
		return err
	})
	return guest.Failed(err, "cannot let its processes go on")
}

// copies are the copies of containers that are being forked.
func copies(vms []vsphere.VM) []vsphere.VM {
	return slices.DeleteFunc(vms, func(vm vsphere.VM) bool { return vm.Extra[record.KeyRole] != record.RoleForkSource })
}

// sweepForks removes the copies that a controller left which died in a fork, and lets their containers go on.
func (s *Service) sweepForks(ctx context.Context, left []vsphere.VM) {
	for _, vm := range left {
		s.log.Warn("removing what is left of a fork that was not finished", "vm", vm.Name)
		fork, _ := link.DecodeFork(vm.Extra[link.KeyFork])
		if c, err := s.running(fork.GetSource()); err == nil {
			if err := s.releaseProcess(ctx, c, nil); err != nil && !errdefs.IsFailedPrecondition(err) {
				s.log.Warn("cannot let the processes of a container go on", "container", c.ID, "err", err)
			}
		}
		s.discard(vm.Ref, vm.Name)
	}
}
