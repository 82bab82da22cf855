package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/controller/internal/ident"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// spreadAtOnce is how many children are made at the same time: enough to hide the waits, few enough that the machines that
// run already go on.
const spreadAtOnce = 8

// spread makes one child for each name, and removes those that come to nothing.
func (s *Service) spread(ctx context.Context, c Container, p point, names []string) []Child {
	children := make([]Child, len(names))
	var g errgroup.Group
	g.SetLimit(spreadAtOnce)
	for i, name := range names {
		child := &children[i]
		child.ID, child.Name, child.Generation, child.Index = ident.New(), name, p.generation, uint32(i+1)
		g.Go(func() error {
			child.Err = s.child(ctx, c, p, child)
			return nil
		})
	}
	_ = g.Wait() // each child has its own error
	return children
}

// child makes one child and waits until its processes go on.
func (s *Service) child(ctx context.Context, c Container, p point, child *Child) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	marks := append(slices.Clone(p.marks), record.MarkAt("cloneRequested", time.Now()))
	extra, err := childExtra(c, p, child, marks)
	if err != nil {
		return err
	}
	ref, err := s.host.InstantClone(context.WithoutCancel(ctx), p.ref, vsphere.CloneSpec{
		Name: child.ID, UUID: ident.UUID(child.ID), ExtraConfig: extra,
	})
	if err != nil {
		return err
	}
	s.clock.set(child.ID, append(marks, record.MarkAt("cloneDone", time.Now())))
	now, err := s.awaitChild(ctx, ref, child)
	if err != nil {
		s.discard(ref, child.ID)
		return err
	}
	child.Receipt = receiptItems(now.receipt)
	return nil
}

// awaitChild waits until a child's tether says that its processes go on.
func (s *Service) awaitChild(ctx context.Context, ref vsphere.Ref, child *Child) (Container, error) {
	ctx, cancel := context.WithTimeout(ctx, s.times.Start)
	defer cancel()
	now, err := await(ctx, s.host, Container{ID: child.ID, VM: vsphere.VM{Ref: ref}}, func(now *Container) bool { return now.phase() != phaseStarting })
	if errors.Is(err, context.DeadlineExceeded) {
		return Container{}, fmt.Errorf("its processes do not go on after %v; the tether is in phase %q%s",
			s.times.Start, now.VM.Extra[link.KeyPhase], guest.Quote(s.host.ConsoleTail(context.WithoutCancel(ctx), child.ID)))
	}
	if err != nil {
		return Container{}, err
	}
	if !now.ran() {
		if now.Status.GetState() == tetherv1.State_FAILED {
			err = errors.New(now.failure())
		} else {
			err = errors.New(endOf(now.VM))
		}
		child.Receipt = receiptItems(now.receipt)
	}
	return now, err
}

// childExtra says in extraConfig who a child is: its source with an ID, a name and a host name of its own.
func childExtra(c Container, p point, child *Child, marks []record.Mark) (map[string]string, error) {
	rec := c.Container
	rec.Created = time.Now().UTC()
	rec.Config.Hostname = childHostname(c, child)
	text, err := json.Marshal(rec)
	if err != nil {
		return nil, fmt.Errorf("cannot encode %s: %w", record.KeyContainer, err)
	}
	tether, err := tetherSpec(child.ID, &rec)
	if err != nil {
		return nil, err
	}
	spec, err := link.EncodeSpec(tether)
	if err != nil {
		return nil, err
	}
	fork, err := link.EncodeFork(&tetherv1.Fork{Generation: p.generation, Index: child.Index, Source: c.ID})
	if err != nil {
		return nil, err
	}
	extra := map[string]string{
		record.KeyRole: record.RoleContainer, record.KeyName: child.Name, record.KeyContainer: string(text), record.KeyStart: record.Start{Marks: marks}.Encode(),
		link.KeySpec: spec, link.KeyFork: fork, link.KeyGate: link.GateOpen,
	}
	return extra, nil
}

// maxLabel is the longest host name that a child gets made of its source's, in bytes (RFC 1123).
const maxLabel = 63

// childHostname is a host name that no sibling has: the short ID as usual, or the one that the source was given with the
// child's number behind it.
func childHostname(c Container, child *Child) string {
	if c.Config.Hostname == c.ID[:12] {
		return child.ID[:12]
	}
	suffix := fmt.Sprintf("-%d", child.Index)
	return c.Config.Hostname[:min(len(c.Config.Hostname), maxLabel-len(suffix))] + suffix
}

// undo removes children that nobody will know of.
func (s *Service) undo(children []Child) {
	var g errgroup.Group
	g.SetLimit(spreadAtOnce)
	for _, child := range children {
		if vm, ok := s.host.Get(child.ID); ok {
			g.Go(func() error {
				s.discard(vm.Ref, vm.Name)
				return nil
			})
		}
	}
	_ = g.Wait() // discard logs what it cannot do
}
