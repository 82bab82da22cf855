package container

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/controller/internal/ident"
	"github.com/containervm/containervm/controller/internal/network"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/template"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// Reasons to boot.
const (
	whyAsked = "it was asked for (--runtime boot)"
	whyOff   = "its machine was off: it is forked when it is made, and boots from its own disk afterwards"
)

// make gives a container its machine, by this rule: it is forked where there is a template of its size, and boots else;
// with the runtime "fork" it waits for the template, with "boot" it boots.
func (s *Service) make(ctx context.Context, p *plan) (id string, err error) {
	lease, err := s.lease(ctx, p)
	if err != nil {
		return "", err
	}
	if lease == nil {
		return s.boot(ctx, p)
	}
	defer lease.Release()
	id, err = s.fork(ctx, lease, p)
	if err == nil || p.rec.HostConfig.Runtime == RuntimeFork || !mayBoot(err) {
		return id, err
	}
	s.log.Warn("a container boots, since it cannot be forked", "container", p.name, "template", lease.Name, "err", err)
	p.why = err.Error()
	return s.boot(ctx, p)
}

// templateSlack is how much longer a container waits for its template than that may take: so that it is told why there is
// none.
const templateSlack = 15 * time.Second

// lease gets the right to clone the template for a container; nil: the container boots, and the plan says why.
func (s *Service) lease(ctx context.Context, p *plan) (lease *template.Lease, err error) {
	size := template.Size{CPUs: p.size.cpus, MemoryMiB: p.size.memoryMiB}
	switch {
	case p.rec.HostConfig.Runtime == RuntimeBoot:
		p.why = whyAsked
	case p.rec.HostConfig.Runtime == RuntimeFork:
		ctx, cancel := context.WithTimeout(ctx, s.times.Template+templateSlack)
		defer cancel()
		if lease, err = s.templates.AwaitLease(ctx, size); err != nil {
			return nil, fmt.Errorf("cannot fork a container: %w", err)
		}
	default:
		lease, p.why = s.templates.Lease(size)
	}
	return lease, nil
}

// mayBoot reports whether a container that cannot be forked may still be made by booting: neither the request nor the
// host's memory is at fault, and the client is there.
func mayBoot(err error) bool {
	return !errdefs.IsInvalidArgument(err) && !errdefs.IsResourceExhausted(err) && !errors.Is(err, context.Canceled)
}

// fork gives a container a machine that is forked, a warm VM or a new child, and waits at its gate.
func (s *Service) fork(ctx context.Context, lease *template.Lease, p *plan) (id string, err error) {
	if child, ok := s.takeWarm(lease, p); ok {
		p.way = wayWarm
		if id, err = s.claim(ctx, lease, child, p); err == nil || !mayBoot(err) {
			return id, err
		}
		s.log.Warn("cannot use a warm VM", "vm", child.VM.Name, "err", err)
	}
	p.way = wayFork
	if err := s.reserve(p, nil); err != nil {
		return "", err
	}
	if s.host.Has(hostapi.ExtensionDiskAtFork) {
		return s.clone(ctx, lease, p)
	}
	child, err := lease.Fork(ctx, network.Cards(p.endpoints))
	if err != nil {
		return "", err
	}
	return s.assign(ctx, lease, child, p, network.Cards(p.endpoints))
}

// takeWarm takes a warm VM that can become the container. The MAC address of a card of a machine that runs stays as it is.
func (s *Service) takeWarm(lease *template.Lease, p *plan) (template.Child, bool) {
	if len(p.attachments) > 0 && len(p.attachments[0].wish.settings.MacAddress) > 0 {
		return template.Child{}, false
	}
	return lease.TakeWarm()
}

// claim makes a warm VM the container. One that is in the network already in which the container is to be keeps its address there.
func (s *Service) claim(ctx context.Context, lease *template.Lease, child template.Child, p *plan) (id string, err error) {
	own, err := record.DecodeNetworks(child.VM.Extra[record.KeyNetworks])
	if err == nil {
		err = s.reserve(p, own)
	}
	if err != nil {
		child.Release()
		return "", err
	}
	return s.assign(ctx, lease, child, p, network.Cards(own))
}

// clone forks a machine that is a container from its first moment.
func (s *Service) clone(ctx context.Context, lease *template.Lease, p *plan) (id string, err error) {
	id = ident.New()
	extra, err := s.extra(id, p)
	if err != nil {
		return "", err
	}
	asked := record.MarkAt("cloneRequested", time.Now())
	extra[record.KeyStart] = p.startNote(asked)
	ref, err := lease.Clone(ctx, id, extra, p.image.TopDisk, network.Cards(p.endpoints))
	if err != nil {
		return "", err
	}
	if limit := s.limitChange(p); limit != nil {
		if err := s.host.Change(ctx, ref, vsphere.Change{CPULimit: limit}); err != nil {
			return "", errors.Join(err, s.discard(ctx, ref))
		}
	}
	s.clock.set(id, []record.Mark{record.MarkAt("api", p.begun), asked, record.MarkAt("cloneDone", time.Now())})
	return id, nil
}

// limitChange is the change to the host's limit of a planned machine's CPU time, which machines that are forked do not have; nil: none.
func (s *Service) limitChange(p *plan) *float64 {
	if limit := s.limit(p); limit != 0 {
		return &limit
	}
	return nil
}

// discard removes a machine that did not become a container.
func (s *Service) discard(ctx context.Context, ref vsphere.Ref) error {
	ctx = context.WithoutCancel(ctx)
	if err := s.host.PowerOff(ctx, ref); err != nil {
		return err
	}
	return s.host.Destroy(ctx, ref)
}

// assign gives a child of a template, which has no disk yet and the cards from, its disk, its cards and its identity as a container, in
// one operation. The child is removed when that fails.
func (s *Service) assign(ctx context.Context, lease *template.Lease, child template.Child, p *plan, from []vsphere.Card) (id string, err error) {
	defer child.Release()
	id = child.VM.Name
	ctx = context.WithoutCancel(ctx)
	asked := record.MarkAt("cloneRequested", time.Now())
	extra, err := s.extra(id, p)
	if err == nil {
		extra[record.KeyStart] = p.startNote(asked)
		err = s.host.Change(ctx, child.VM.Ref, vsphere.Change{
			CPULimit: s.limitChange(p), RootDir: id, RootParent: p.image.TopDisk, Extra: extra, Cards: vsphere.CardChange{From: from, To: network.Cards(p.endpoints)},
		})
	}
	if err != nil {
		return "", errors.Join(err, lease.Discard(ctx, child))
	}
	s.clock.set(id, []record.Mark{record.MarkAt("api", p.begun), asked, record.MarkAt("cloneDone", time.Now())})
	return id, nil
}
