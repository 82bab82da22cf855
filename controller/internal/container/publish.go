package container

import (
	"context"
	"errors"
	"net/netip"

	"github.com/containervm/containervm/controller/internal/publish"
	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// publishesHere says whether this process publishes the ports of containers, since their host does not.
func (s *Service) publishesHere() bool { return !s.host.Has(hostapi.ExtensionNetworks) }

// bindPorts binds the ports that a container publishes in a run, if that is not its host's business, and adds how they are bound to what
// its VM is told. They are free again when the run ends, or by ReleasePorts.
func (s *Service) bindPorts(c *Container, run hostapi.Run, extra map[string]string) error {
	if !s.publishesHere() {
		return nil
	}
	wanted, err := publications(&c.Config, &c.HostConfig)
	if err != nil {
		return err
	}
	return s.bind(c, run, wanted, extra)
}

func (s *Service) bind(c *Container, run hostapi.Run, wanted []hostapi.Publication, extra map[string]string) error {
	if len(wanted) == 0 || !inside(c.Endpoints()).IsValid() {
		if c.VM.Extra[record.KeyPublished] != "" {
			extra[record.KeyPublished] = ""
		}
		return nil
	}
	lead := func() netip.Addr { // it may go into another network
		vm, _ := s.host.Get(c.ID)
		return inside((&Container{VM: vm}).Endpoints())
	}
	bound, err := s.ports.Bind(c.VM.Ref, run, lead, wanted)
	if errors.As(err, new(*publish.TakenError)) {
		s.releaseEnded() // publish may not have come to it yet
		bound, err = s.ports.Bind(c.VM.Ref, run, lead, wanted)
	}
	if taken := (*publish.TakenError)(nil); errors.As(err, &taken) {
		return portTaken(c.ID, c.Name, c.Endpoints(), taken.Error())
	}
	if err != nil {
		return err
	}
	extra[record.KeyPublished], err = hostapi.EncodePublished(bound)
	return err
}

// inside is where a container's ports are reached, by IPv4 if it has such an address; zero: nothing leads into its networks.
func inside(endpoints []record.Endpoint) netip.Addr {
	in := wayIn(endpoints)
	for _, e := range endpoints {
		switch {
		case e.PortGroup != in:
		case e.IPv4.IsValid():
			return e.IPv4.Addr()
		default:
			return e.IPv6.Addr()
		}
	}
	return netip.Addr{}
}

// PublishFork binds the ports of a container that goes on already, as the fork of another one.
func (s *Service) PublishFork(ctx context.Context, c *Container) error {
	extra := map[string]string{}
	if err := s.bindPorts(c, c.Run, extra); err != nil || len(extra) == 0 {
		return err
	}
	return s.host.Reconfigure(ctx, c.VM.Ref, extra)
}

// publish has the ports of containers be bound while they run, from the start of this process on, until ctx ends.
func (s *Service) publish(ctx context.Context) {
	if !s.publishesHere() {
		return
	}
	defer s.ports.Close()
	changes := s.host.Subscribe(ctx)
	for _, c := range s.All() {
		if !c.Running() {
			continue
		}
		published, err := hostapi.DecodePublished(c.VM.Extra[record.KeyPublished]) // where they were bound by an earlier process
		if err == nil {
			err = s.bind(&c, c.Run, published, map[string]string{})
		}
		if err != nil {
			s.log.Warn("the ports of a container that runs are not published any more", "container", c.Name, "err", err)
		}
	}
	for e := range changes {
		switch {
		case e.After == nil && e.Before != nil:
			s.ports.ReleaseAll(e.Before.Ref)
		case e.After != nil && hasEnded(e.Before, e.After):
			s.ports.Release(e.After.Ref, hostapi.RunOf(e.After.Extra))
		}
	}
}

// releaseEnded releases the ports of all containers that are gone, or whose run has ended.
func (s *Service) releaseEnded() {
	there := map[vsphere.Ref]vsphere.VM{}
	for _, vm := range s.host.VMs() {
		there[vm.Ref] = vm
	}
	s.ports.ReleaseIf(func(ref vsphere.Ref, run hostapi.Run) bool {
		vm, ok := there[ref]
		return !ok || run <= hostapi.RunOf(vm.Extra) && hasEnded(nil, &vm)
	})
}

// hasEnded reports whether the run that a change shows is over: a host gives it its number before its machine is on.
func hasEnded(before, after *vsphere.VM) bool {
	if after.PowerState == vsphere.PoweredOn {
		return false
	}
	exit, err := hostapi.DecodeExit(after.Extra[hostapi.KeyExit])
	return before != nil && before.PowerState == vsphere.PoweredOn || err == nil && exit.Run != 0 && exit.Run == hostapi.RunOf(after.Extra)
}
