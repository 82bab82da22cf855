package container

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/controller/internal/ident"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/template"
	"github.com/containervm/containervm/controller/internal/vsphere"
)

// Reasons to boot.
const (
	whyAsked   = "it was asked for (--runtime boot)"
	whyNetwork = "it has no network: a template has a network card"
	whyOff     = "its machine was off: it is forked when it is made, and boots from its own disk afterwards"
)

// make gives a container its machine, by this rule: it is forked where there is a template of its size, and boots else;
// with the runtime "fork" it waits for the template, with "boot" it boots.
func (s *Service) make(ctx context.Context, p *plan) (id string, err error) {
	held, err := s.hold(ctx, p)
	if err != nil {
		return "", err
	}
	if held == nil {
		return s.boot(ctx, p)
	}
	defer held.Release()
	id, err = s.fork(ctx, held, p)
	if err == nil || p.rec.HostConfig.Runtime == RuntimeFork || !mayBoot(err) {
		return id, err
	}
	s.log.Warn("a container boots, since it cannot be forked", "container", p.name, "template", held.Name, "err", err)
	p.why = err.Error()
	return s.boot(ctx, p)
}

// templateSlack is how much longer a container waits for its template than that may take: so that it is told why there is
// none.
const templateSlack = 15 * time.Second

// hold finds the template for a container; nil: it boots, and the plan says why.
func (s *Service) hold(ctx context.Context, p *plan) (held *template.Lease, err error) {
	size := template.Size{CPUs: p.size.cpus, MemoryMiB: p.size.memoryMiB}
	switch {
	case p.rec.HostConfig.Runtime == RuntimeBoot:
		p.why = whyAsked
	case !networked(&p.rec):
		p.why = whyNetwork
	case p.rec.HostConfig.Runtime == RuntimeFork:
		ctx, cancel := context.WithTimeout(ctx, s.times.Template+templateSlack)
		defer cancel()
		if held, err = s.templates.AwaitLease(ctx, size); err != nil {
			return nil, fmt.Errorf("cannot fork a container: %w", err)
		}
	default:
		held, p.why = s.templates.Lease(size)
	}
	return held, nil
}

// mayBoot reports whether a container that cannot be forked may still be made by booting: neither the request nor the
// host's memory is at fault, and the client is there.
func mayBoot(err error) bool {
	return !errdefs.IsInvalidArgument(err) && !errdefs.IsResourceExhausted(err) && !errors.Is(err, context.Canceled)
}

// fork gives a container a machine that is forked: one from the warm pool, or a new one. It waits at its gate.
func (s *Service) fork(ctx context.Context, held *template.Lease, p *plan) (id string, err error) {
	if m, ok := held.TakeWarm(); ok {
		p.way = wayWarm
		if id, err = s.become(ctx, held, m, p); err == nil || !mayBoot(err) {
			return id, err
		}
		s.log.Warn("cannot use a machine that was forked ahead of time", "vm", m.VM.Name, "err", err)
	}
	p.way = wayFork
	if s.host.Has(vsphere.DiskAtFork) {
		return s.clone(ctx, held, p)
	}
	m, err := held.Fork(ctx, false)
	if err != nil {
		return "", err
	}
	return s.become(ctx, held, m, p)
}

// clone forks a machine that is a container from its first moment.
func (s *Service) clone(ctx context.Context, held *template.Lease, p *plan) (id string, err error) {
	id = ident.New()
	extra, err := p.extra(id)
	if err != nil {
		return "", err
	}
	asked := record.MarkAt("cloneRequested", time.Now())
	extra[record.KeyStart] = p.note(asked)
	if _, err := held.Clone(ctx, id, extra, p.image.TopDisk); err != nil {
		return "", err
	}
	s.clock.set(id, []record.Mark{record.MarkAt("api", p.begun), asked, record.MarkAt("cloneDone", time.Now())})
	return id, nil
}

// become tells a machine that was forked without a disk which container it is; it is removed when that fails.
func (s *Service) become(ctx context.Context, held *template.Lease, m template.Child, p *plan) (id string, err error) {
	defer m.Release()
	id = m.VM.Name
	ctx = context.WithoutCancel(ctx)
	extra, err := p.extra(id)
	asked := record.MarkAt("cloneRequested", time.Now())
	if err == nil {
		extra[record.KeyStart] = p.note(asked)
		err = s.host.AttachRoot(ctx, m.VM.Ref, id, p.image.TopDisk, extra)
	}
	if err != nil {
		return "", errors.Join(err, held.Discard(ctx, m))
	}
	s.clock.set(id, []record.Mark{record.MarkAt("api", p.begun), asked, record.MarkAt("cloneDone", time.Now())})
	return id, nil
}
