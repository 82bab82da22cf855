package fork

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	dockernet "github.com/moby/moby/api/types/network"
	"golang.org/x/sync/errgroup"

	"github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/guest"
	"github.com/containervm/containervm/controller/internal/ident"
	"github.com/containervm/containervm/controller/internal/network"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// childrenAtOnce is how many children are made at the same time: enough to hide the waits, few enough that the machines that
// run already go on.
const childrenAtOnce = 8

// makeChildren makes one child for each name, and removes those that come to nothing.
func (s *Service) makeChildren(ctx context.Context, c container.Container, p point, names []string) []Child {
	children := make([]Child, len(names))
	var g errgroup.Group
	g.SetLimit(childrenAtOnce)
	for i, name := range names {
		child := &children[i]
		child.ID, child.Name, child.Generation, child.Index = ident.New(), name, p.generation, uint32(i+1)
		g.Go(func() error {
			child.Err = s.makeChild(ctx, c, p, child)
			return nil
		})
	}
	_ = g.Wait() // each child has its own error
	return children
}

// makeChild makes one child and waits until its processes go on.
func (s *Service) makeChild(ctx context.Context, c container.Container, p point, child *Child) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	endpoints, release, err := s.containers.ReserveLike(&c)
	if err != nil {
		return err
	}
	defer release()
	marks := append(slices.Clone(p.marks), record.MarkAt("cloneRequested", time.Now()))
	extra, err := s.childExtra(c, p, child, endpoints, marks)
	if err != nil {
		return err
	}
	ref, err := s.host.InstantClone(context.WithoutCancel(ctx), p.ref, vsphere.CloneSpec{
		Name: child.ID, UUID: ident.UUID(child.ID), ExtraConfig: extra,
		Cards: vsphere.CardChange{From: network.Cards(c.Endpoints()), To: network.Cards(endpoints)},
	})
	if err != nil {
		return container.PortTaken(child.ID, child.Name, endpoints, err)
	}
	s.containers.SetMarks(child.ID, append(marks, record.MarkAt("cloneDone", time.Now())))
	if err := s.awaitChild(ctx, ref, p, child); err != nil {
		s.discard(ref, child.ID)
		return err
	}
	return nil
}

// itemTold is the item of the receipt of a tether that can tell processes of their fork.
const itemTold = "told"

// awaitChild waits until a child's tether says that its processes go on.
func (s *Service) awaitChild(ctx context.Context, ref vsphere.Ref, p point, child *Child) error {
	ctx, cancel := context.WithTimeout(ctx, s.times.Start)
	defer cancel()
	now, err := container.Await(ctx, s.host, container.Container{ID: child.ID, VM: vsphere.VM{Ref: ref}}, func(now *container.Container) bool {
		return now.Phase() != container.PhaseStarting
	})
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("its processes do not go on after %v; the tether is in phase %q%s",
			s.times.Start, now.VM.Extra[link.KeyPhase], guest.Quote(s.host.ConsoleTail(context.WithoutCancel(ctx), child.ID)))
	case err != nil:
		return err
	}
	if now.Ran() {
		if err := s.containers.PublishFork(ctx, &now); err != nil {
			return err
		}
		if vm, ok := s.host.Get(child.ID); ok {
			now.VM = vm
		}
	}
	child.Receipt, child.Networks, child.Ports = now.ReceiptItems(), now.Networks(), now.Ports()
	told := func(i container.ReceiptItem) bool { return i.Name == itemTold }
	switch {
	case now.Ran() && p.notify != nil && !slices.ContainsFunc(child.Receipt, told):
		return errors.New("its tether is of an earlier version, which tells nobody of a fork: leave out Notify, or start the container anew")
	case now.Ran():
		return nil
	}
	return errors.New(now.WhyEnded())
}

// childExtra says in extraConfig who a child is: its source with an ID, a name, a host name and addresses of its own. Its ports are published
// where the host chooses: those that its source has are taken.
func (s *Service) childExtra(c container.Container, p point, child *Child, endpoints []record.Endpoint, marks []record.Mark) (map[string]string, error) {
	rec := c.Container
	rec.Created = time.Now().UTC()
	rec.Config.Hostname = childHostname(c, child)
	rec.HostConfig.PortBindings = childPorts(rec.HostConfig.PortBindings)
	rec.Mounts, rec.Files = container.ForkMounts(child.ID, rec.Mounts, s.host.DatastorePath), c.CopiedFiles()
	extra, err := s.containers.Describe(child.ID, child.Name, &rec, endpoints)
	if err == nil {
		extra[hostapi.KeyNet], err = s.containers.HostNet(child.ID, child.Name, &rec, endpoints)
	}
	if err != nil {
		return nil, err
	}
	fork, err := link.EncodeFork(&tetherv1.Fork{Generation: p.generation, Index: child.Index, Source: c.ID, Notify: p.notify})
	if err != nil {
		return nil, err
	}
	extra[record.KeyStart], extra[link.KeyFork], extra[link.KeyGate] = record.Start{Marks: marks}.Encode(), fork, link.GateOpen
	if c.VM.Extra[record.KeyDisks] != "" {
		extra[record.KeyDisks] = record.Attached // a clone has what its source has
	}
	return extra, nil
}

// childPorts are a source's published ports as a child has them: at the same addresses of the host, at ports that the host chooses.
func childPorts(ports dockernet.PortMap) dockernet.PortMap {
	own := maps.Clone(ports)
	for port, bindings := range own {
		own[port] = slices.Clone(bindings)
		for i := range own[port] {
			own[port][i].HostPort = ""
		}
	}
	return own
}

// maxLabel is the longest host name that a child gets made of its source's, in bytes (RFC 1123).
const maxLabel = 63

// childHostname is a host name that no sibling has: the short ID as usual, or the one that the source was given with the
// child's number behind it.
func childHostname(c container.Container, child *Child) string {
	if c.Config.Hostname == c.ID[:12] {
		return child.ID[:12]
	}
	suffix := fmt.Sprintf("-%d", child.Index)
	return c.Config.Hostname[:min(len(c.Config.Hostname), maxLabel-len(suffix))] + suffix
}

// removeChildren removes children that the client, which has left, does not know of.
func (s *Service) removeChildren(children []Child) {
	var g errgroup.Group
	g.SetLimit(childrenAtOnce)
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
