package container

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/controller/internal/ident"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// MaxForks is the most children that one fork may have.
const MaxForks = 256

// ForkRequest says how to fork a running container.
type ForkRequest struct {
	Count   int
	Names   []string // of the children; empty: the container's with a number
	AtPoint bool     // wait until the container's process asks to be forked
}

// Child is a container that was forked from a running one, or why there is none.
type Child struct {
	ID, Name          string
	Generation, Index uint32
	Receipt           []ReceiptItem
	Err               error
}

// ForkRunning makes children of a running container that go on where it stands: its processes stop for as long as a copy of
// the machine takes, and the children are forked from the copy. The copy is gone when it returns. When ctx ends, nothing is
// left of the children either.
func (s *Service) ForkRunning(ctx context.Context, ref string, req ForkRequest) ([]Child, error) {
	begun := time.Now()
	c, err := s.checkFork(ref, req)
	if err != nil {
		return nil, err
	}
	names, named, err := s.claimForkNames(c.Name, req)
	if err != nil {
		return nil, err
	}
	defer named()
	p, err := s.copyAlone(ctx, c, req.AtPoint, begun)
	if err != nil {
		return nil, fmt.Errorf("cannot fork %s: %w", &c, err)
	}
	defer s.discard(p.ref, p.name)
	defer s.templates.Busy()()
	children := s.spread(ctx, c, p, names)
	if ctx.Err() != nil {
		s.undo(children)
		return nil, ctx.Err()
	}
	s.metrics.forked(result(children), time.Since(begun))
	return children, nil
}

// copyAlone makes the copy while no start and no other fork of the container is under way.
func (s *Service) copyAlone(ctx context.Context, c Container, atPoint bool, begun time.Time) (point, error) {
	release, err := s.starts.acquire(ctx, c.ID)
	if err != nil {
		return point{}, fmt.Errorf("a start or another fork of it is under way: %w", err)
	}
	defer release()
	p := point{name: newPointName(), generation: 1, marks: []record.Mark{record.MarkAt("api", begun)}}
	if c.forked() {
		p.generation = c.fork.GetGeneration() + 1
	}
	if err := s.holdProcess(ctx, c, atPoint); err != nil {
		return p, err
	}
	p.marks = append(p.marks, record.MarkAt("held", time.Now()))
	err = s.copyHeld(ctx, c, &p)
	return p, err
}

func result(children []Child) string {
	for _, c := range children {
		if c.Err != nil {
			return "failed"
		}
	}
	return "ok"
}

// checkFork finds the container and refuses what cannot be a fork.
func (s *Service) checkFork(ref string, req ForkRequest) (Container, error) {
	c, err := s.running(ref)
	switch {
	case err != nil:
		return c, err
	case req.Count < 1 || req.Count > MaxForks:
		return c, invalid("cannot fork %s %d times: want a number from 1 to %d", &c, req.Count, MaxForks)
	case len(req.Names) > 0 && len(req.Names) != req.Count:
		return c, invalid("cannot name the children of %s: there are %d names for %d children", &c, len(req.Names), req.Count)
	case !s.host.CanClone():
		return c, notImplemented("cannot fork %s: the host makes no instant clones, only a vCenter does", &c)
	case !c.ran():
		return c, errdefs.ErrConflict.WithMessage(fmt.Sprintf("cannot fork %s: its process does not run yet", &c))
	}
	return c, nil
}

// claimForkNames reserves the children's names until release is called.
func (s *Service) claimForkNames(base string, req ForkRequest) (names []string, release func(), err error) {
	var held []func()
	release = func() {
		for _, r := range held {
			r()
		}
	}
	for n, want := 1, req.Names; len(names) < req.Count; n++ {
		name := fmt.Sprintf("%s-%d", base, n)
		if len(want) > 0 {
			name = want[n-1]
		}
		claimed, r, err := s.claimName(name)
		switch {
		case err == nil:
			names, held = append(names, claimed), append(held, r)
		case len(want) > 0 || !errdefs.IsConflict(err):
			release()
			return nil, nil, err
		}
	}
	return names, release, nil
}

// point is a copy of a running container's machine that stands still.
type point struct {
	name       string
	ref        vsphere.Ref
	generation uint32        // of its children
	marks      []record.Mark // of the API, on the way to it
}

// copyHeld makes a copy of the machine of a container that is held, and waits until it stands still. The container goes on in
// any case.
func (s *Service) copyHeld(ctx context.Context, c Container, p *point) error {
	defer s.templates.Busy()()
	fork := &tetherv1.Fork{Generation: p.generation, Source: c.ID}
	err := s.copyMachine(ctx, c, p, fork)
	if err != nil {
		fork = nil
	}
	switch rerr := s.releaseProcess(ctx, c, fork); {
	case errdefs.IsFailedPrecondition(rerr): // held for longer than a tether bears; the copy is as good
		s.log.Warn("a container went on before its fork was done", "container", c.ID, "err", rerr)
	case rerr != nil:
		err = errors.Join(err, rerr)
	}
	if err == nil {
		p.marks = append(p.marks, record.MarkAt("copied", time.Now()))
		err = s.awaitPoint(ctx, *p)
	}
	if err != nil && p.ref != (vsphere.Ref{}) {
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
func (s *Service) copyMachine(ctx context.Context, c Container, p *point, fork *tetherv1.Fork) error {
	spec, err := link.EncodeSpec(&tetherv1.Spec{Mode: tetherv1.Mode_TEMPLATE, ForkPoint: true, Id: c.ID, Hostname: p.name})
	if err != nil {
		return err
	}
	encoded, err := link.EncodeFork(fork)
	if err != nil {
		return err
	}
	extra := map[string]string{
		record.KeyRole: record.RoleForkSource, record.KeyContainer: c.VM.Extra[record.KeyContainer], record.KeyName: "", record.KeyStart: "", link.KeySpec: spec, link.KeyFork: encoded,
	}
	p.ref, err = s.host.InstantClone(context.WithoutCancel(ctx), c.VM.Ref, vsphere.CloneSpec{
		Name: p.name, UUID: ident.UUID(ident.New()), ExtraConfig: extra,
	})
	return err
}

// awaitPoint waits until the copy stands at its fork point.
func (s *Service) awaitPoint(ctx context.Context, p point) error {
	ctx, cancel := context.WithTimeout(ctx, s.times.Start)
	defer cancel()
	vm, err := s.host.Wait(ctx, p.ref, func(vm vsphere.VM) bool { return vm.Frozen || isOff(vm) })
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("its copy does not stand still after %v; its tether is in phase %q%s",
			s.times.Start, vm.Extra[link.KeyPhase], guest.Quote(s.host.ConsoleTail(context.WithoutCancel(ctx), p.name)))
	case err != nil:
		return err
	case isOff(vm):
		return fmt.Errorf("its copy ended: %s", endOf(vm))
	}
	return nil
}

// endOf says why a machine that was being forked is off.
func endOf(vm vsphere.VM) string {
	c, err := parse(vm)
	if err != nil {
		return err.Error()
	}
	c.gate = true // what happened to it counts
	return cmp.Or(c.Trouble(), "the host does not say why")
}

// discard removes a machine that no container is, whatever its state. What cannot be removed the next controller removes.
func (s *Service) discard(ref vsphere.Ref, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*s.times.Off)
	defer cancel()
	err := s.host.PowerOff(ctx, ref)
	if err == nil {
		err = s.host.Destroy(ctx, ref)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		s.log.Error("a machine is left behind", "vm", name, "err", err)
	}
}
