package fork

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	dockernet "github.com/moby/moby/api/types/network"

	"github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/controller/internal/ident"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// MaxChildren is the most children that one fork may have.
const MaxChildren = 256

// Request says how to fork a running container.
type Request struct {
	Count   int
	Names   []string         // of the children; empty: the container's with a number
	AtPoint bool             // wait until the container's process asks to be forked
	Notify  *tetherv1.Notify // how the children's processes are told; nil: those that asked for it alone
}

// Child is a container that was forked from a running one, or why there is none.
type Child struct {
	ID, Name          string
	Generation, Index uint32
	Receipt           []container.ReceiptItem
	Networks          map[string]*dockernet.EndpointSettings // by name
	Ports             dockernet.PortMap                      // as they are published
	Err               error
}

// Fork makes children of a running container that go on where it stands: its processes stop for as long as a copy of the machine
// takes, and the children are forked from the copy. The copy is gone when it returns. When ctx ends, nothing is left of the
// children either.
func (s *Service) Fork(ctx context.Context, ref string, req Request) ([]Child, error) {
	begun := time.Now()
	c, err := s.check(ref, req)
	if err != nil {
		return nil, err
	}
	names, release, err := s.claimNames(c.Name, req)
	if err != nil {
		return nil, err
	}
	defer release()
	p, err := s.forkPoint(ctx, c, req.AtPoint, begun)
	if err != nil {
		return nil, fmt.Errorf("cannot fork %s: %w", &c, err)
	}
	p.notify = req.Notify
	defer s.discard(p.ref, p.name)
	defer s.templates.Busy()()
	children := s.makeChildren(ctx, c, p, names)
	if ctx.Err() != nil {
		s.removeChildren(children)
		return nil, ctx.Err()
	}
	s.count(children, begun)
	return children, nil
}

// check finds the container and refuses what cannot be a fork.
func (s *Service) check(ref string, req Request) (container.Container, error) {
	c, err := s.containers.GetRunning(ref)
	switch {
	case err != nil:
		return c, err
	case req.Count < 1 || req.Count > MaxChildren:
		return c, refuse(errdefs.ErrInvalidArgument, "cannot fork %s %d times: want a number from 1 to %d", &c, req.Count, MaxChildren)
	case len(req.Names) > 0 && len(req.Names) != req.Count:
		return c, refuse(errdefs.ErrInvalidArgument, "cannot name the children of %s: there are %d names for %d children", &c, len(req.Names), req.Count)
	case !s.host.CanClone():
		return c, refuse(errdefs.ErrNotImplemented, "cannot fork %s: the host makes no instant clones, only a vCenter does", &c)
	case !c.Ran():
		return c, refuse(errdefs.ErrConflict, "cannot fork %s: its process does not run yet", &c)
	}
	return c, nil
}

// refuse makes an error of a class of package errdefs.
func refuse(class interface{ WithMessage(string) error }, format string, args ...any) error {
	return class.WithMessage(fmt.Sprintf(format, args...))
}

// claimNames reserves the children's names until release is called.
func (s *Service) claimNames(base string, req Request) (names []string, release func(), err error) {
	var claims []func()
	release = func() {
		for _, r := range claims {
			r()
		}
	}
	for n, want := 1, req.Names; len(names) < req.Count; n++ {
		name := fmt.Sprintf("%s-%d", base, n)
		if len(want) > 0 {
			name = want[n-1]
		}
		claimed, r, err := s.containers.ClaimName(name)
		switch {
		case err == nil:
			names, claims = append(names, claimed), append(claims, r)
		case len(want) > 0 || !errdefs.IsConflict(err):
			release()
			return nil, nil, err
		}
	}
	return names, release, nil
}

// point is a fork point: a copy of a running container's machine that stands still.
type point struct {
	name       string
	ref        vsphere.Ref
	generation uint32        // of its children
	marks      []record.Mark // of the API, on the way to it
	notify     *tetherv1.Notify
}

// forkPoint makes a fork point of a container while no start and no other fork of it is in flight. The container goes on in any
// case.
func (s *Service) forkPoint(ctx context.Context, c container.Container, atPoint bool, begun time.Time) (point, error) {
	p := point{name: newPointName(), generation: c.Generation() + 1, marks: []record.Mark{record.MarkAt("api", begun)}}
	release, err := s.containers.AcquireStart(ctx, c.ID)
	if err != nil {
		return p, fmt.Errorf("a start or another fork of it is in flight: %w", err)
	}
	defer release()
	if err := s.hold(ctx, c, atPoint); err != nil {
		return p, err
	}
	p.marks = append(p.marks, record.MarkAt("held", time.Now()))
	defer s.templates.Busy()()
	if err := s.copyHeld(ctx, c, &p); err != nil {
		return p, err
	}
	p.marks = append(p.marks, record.MarkAt("copied", time.Now()))
	if err := s.awaitFrozen(ctx, p); err != nil {
		s.discard(p.ref, p.name)
		return p, err
	}
	return p, nil
}

// copyHeld copies the machine of a container that is held, and lets the container go on. Without an error there is a copy.
func (s *Service) copyHeld(ctx context.Context, c container.Container, p *point) error {
	fork := &tetherv1.Fork{Generation: p.generation, Source: c.ID}
	ref, err := s.copyMachine(ctx, c, p.name, fork)
	if err != nil {
		s.letGo(ctx, c)
		return err
	}
	p.ref = ref
	err = s.release(ctx, c, fork)
	if errdefs.IsFailedPrecondition(err) { // held for longer than a tether bears; the copy is as good
		s.log.Warn("a container went on before its fork was done", "container", c.ID, "err", err)
		return nil
	}
	if err != nil {
		s.discard(p.ref, p.name)
	}
	return err
}

func newPointName() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return "cvm-fork-" + hex.EncodeToString(b[:])
}

// copyMachine clones the container's machine. The clone freezes as soon as it runs: that is what its Spec says.
func (s *Service) copyMachine(ctx context.Context, c container.Container, name string, fork *tetherv1.Fork) (vsphere.Ref, error) {
	spec, err := link.EncodeSpec(&tetherv1.Spec{Mode: tetherv1.Mode_TEMPLATE, ForkPoint: true, Id: c.ID, Hostname: name})
	if err != nil {
		return vsphere.Ref{}, err
	}
	encoded, err := link.EncodeFork(fork)
	if err != nil {
		return vsphere.Ref{}, err
	}
	return s.host.InstantClone(context.WithoutCancel(ctx), c.VM.Ref, vsphere.CloneSpec{
		Name: name, UUID: ident.UUID(ident.New()), ExtraConfig: map[string]string{
			record.KeyRole: record.RoleForkSource, record.KeyContainer: c.VM.Extra[record.KeyContainer],
			link.KeySpec: spec, link.KeyFork: encoded,
		},
	})
}

// awaitFrozen waits until the copy stands at its fork point.
func (s *Service) awaitFrozen(ctx context.Context, p point) error {
	ctx, cancel := context.WithTimeout(ctx, s.times.Start)
	defer cancel()
	vm, err := s.host.Wait(ctx, p.ref, func(vm vsphere.VM) bool { return vm.Frozen || vm.PowerState != vsphere.PoweredOn })
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("its copy does not stand still after %v; its tether is in phase %q%s",
			s.times.Start, vm.Extra[link.KeyPhase], guest.Quote(s.host.ConsoleTail(context.WithoutCancel(ctx), p.name)))
	case err != nil:
		return err
	case !vm.Frozen:
		return fmt.Errorf("its copy ended: %s", container.EndOf(vm))
	}
	return nil
}
