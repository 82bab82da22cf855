package networks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/netswitch"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// intent is what an operation in flight is about to make of a VM.
type intent struct {
	next      *vm.VM
	start     bool   // next.Power is about to be on; else it is already
	old       *vm.VM // nil with start
	publish   []hostapi.Publication
	before    []hostapi.Publication // what was published when it began
	beforeNet hostapi.Net
}

// Operation is an operation in flight that changes what a VM is in its networks. The zero value changes nothing.
type Operation struct {
	// Published are the VM's ports, as they are bound: what vm.VM.Published is to be when the operation succeeds.
	Published []hostapi.Publication
	Active    bool // it changes something

	networks *Networks
	intent   *intent
}

// Begin prepares the networks for what an operation is about to make of a VM: next is on, or about to be. old is the VM as it is when
// it is on already; nil: it is off. It returns when the ports that next publishes are bound. When one of them is taken, a
// *vm.PortError, nothing has changed. Without publications it waits for nothing. The caller calls End, or Undo.
func (n *Networks) Begin(ctx context.Context, next, old *vm.VM) (*Operation, error) {
	net := next.Net()
	if len(next.NICs) == 0 && len(net.Endpoints) == 0 && old == nil {
		return &Operation{}, nil
	}
	if err := n.check(next, net); err != nil {
		return nil, err
	}
	i := &intent{next: next, start: old == nil, old: old}
	if old != nil {
		i.before, i.beforeNet = old.Published, old.Net()
	}
	i.publish = keep(net.Publish, i.before)
	n.mu.Lock()
	n.intents[next.Ref] = i
	n.mu.Unlock()
	o := &Operation{Active: true, networks: n, intent: i}
	if len(i.publish) == 0 {
		n.Changed()
		return o, nil
	}
	var err error
	if o.Published, err = n.bind(ctx, i, net); err != nil {
		o.Undo(ctx)
		return nil, err
	}
	return o, nil
}

// End says that the inventory has what the operation made of the VM. When it returns the ports are free that it gave up. After Undo it
// does nothing.
func (o *Operation) End() {
	if !o.Active {
		return
	}
	o.networks.end(o.intent.next.Ref, o.intent)
	if len(o.intent.before) > 0 {
		o.networks.settle(o.networks.ctx, o.intent.old, hostapi.Net{Endpoints: o.intent.beforeNet.Endpoints, Publish: o.intent.before})
	}
}

// Undo says that the operation has failed, and returns when its ports are free.
func (o *Operation) Undo(ctx context.Context) {
	o.End()
	if o.Active && len(o.intent.publish) > 0 {
		o.networks.settle(ctx, o.intent.next, o.intent.next.Net())
	}
}

// inFlight says whether an operation is about to change what the VM is in its networks.
func (n *Networks) inFlight(ref string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.intents[ref] != nil
}

func (n *Networks) end(ref string, i *intent) {
	n.mu.Lock()
	if n.intents[ref] == i {
		delete(n.intents, ref)
	}
	n.mu.Unlock()
	n.Changed()
}

// check says what is wrong with what a VM wants to be in its networks.
func (n *Networks) check(v *vm.VM, net hostapi.Net) error {
	wrong := func(format string, args ...any) error {
		return &vm.ArgumentError{Property: "extraConfig " + hostapi.KeyNet, Why: fmt.Sprintf(format, args...)}
	}
	of := map[string]*vm.Network{}
	for _, card := range v.NICs {
		if network, ok := n.opt.Inventory.Network(card.Network); ok {
			of[network.Name] = network
		}
	}
	addresses := map[string]hostapi.Endpoint{}
	for _, e := range net.Endpoints {
		if of[e.Network] == nil {
			return wrong("VM %s has no network adapter in network %q", v.Name, e.Network)
		}
		addresses[e.Network] = e
	}
	for _, p := range net.Publish {
		at := of[networkOf(net, p)]
		switch {
		case at.Settings.Internal:
			return wrong("a port cannot be published in network %q: it is internal", at.Name)
		case !reachable(at.Settings.Gateways, addresses[at.Name].Addresses):
			return wrong("a port cannot be published in network %q: the VM has no address there that its gateway reaches", at.Name)
		}
	}
	return nil
}

// bind has the switches of the networks in which a VM publishes ports take them.
func (n *Networks) bind(ctx context.Context, i *intent, net hostapi.Net) ([]hostapi.Publication, error) {
	bound := map[string][]hostapi.Publication{} // by the names of networks, in the order of i.publish
	refs := n.portNetworks(i, net)
	var err error
	for range 2 { // a port that goes from one network to another may be free the second time
		err = nil
		for _, ref := range refs {
			result, failed := n.owner(ref).tend(ctx, i.next.Ref)
			if failed != nil {
				return nil, failed
			}
			outcome := result.Endpoints[i.next.Ref]
			if outcome.Failed != nil {
				err = errors.Join(err, failure(outcome.Failed))
				continue
			}
			if network, ok := n.opt.Inventory.Network(ref); ok {
				bound[network.Name] = outcome.Published
			}
		}
		if err == nil {
			break
		}
	}
	if err != nil {
		return nil, first(err)
	}
	var out []hostapi.Publication
	for _, p := range i.publish {
		name := networkOf(net, p)
		if n.card(i.next, name) == nil {
			continue // it is not connected
		}
		if len(bound[name]) == 0 {
			return nil, fmt.Errorf("the switch of network %q does not say what became of the ports of VM %s", name, i.next.Name)
		}
		p.HostPort, p.HostPortEnd = bound[name][0].HostPort, 0
		bound[name] = bound[name][1:]
		out = append(out, p)
	}
	n.mu.Lock()
	i.publish = out // from now on the same ports, also in a switch that is started again meanwhile
	n.mu.Unlock()
	return out, nil
}

// portNetworks are the networks in which a VM has connected cards and publishes ports, before or after the operation. Those come first
// that it only takes ports out of.
func (n *Networks) portNetworks(i *intent, net hostapi.Net) (refs []string) {
	has := func(net hostapi.Net, publish []hostapi.Publication, name string) bool {
		return slices.ContainsFunc(publish, func(p hostapi.Publication) bool { return networkOf(net, p) == name })
	}
	for _, network := range n.opt.Inventory.Networks() {
		now := n.card(i.next, network.Name) != nil && has(net, i.publish, network.Name)
		before := i.old != nil && n.card(i.old, network.Name) != nil && has(i.beforeNet, i.before, network.Name)
		switch {
		case now:
			refs = append(refs, network.Ref)
		case before:
			refs = append([]string{network.Ref}, refs...)
		}
	}
	return refs
}

// card is the VM's connected card in the network with a name, or nil.
func (n *Networks) card(v *vm.VM, network string) *vm.Card {
	if at, ok := n.opt.Inventory.NetworkNamed(network); ok {
		return (&member{VM: v}).card(at.Ref)
	}
	return nil
}

// first is the first of joined errors: a client is told of one port.
func first(err error) error {
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		return all.Unwrap()[0]
	}
	return err
}

// failure says why a switch did not take a VM's ports.
func failure(f *netswitch.Failure) error {
	if f.Publication.Protocol == "" {
		return fmt.Errorf("cannot join the network: %w", f)
	}
	if errors.Is(f.Errno, syscall.EADDRINUSE) {
		return &vm.PortError{Publication: f.Publication}
	}
	p := f.Publication
	return &vm.ArgumentError{
		Property: "extraConfig " + hostapi.KeyNet,
		Why:      fmt.Sprintf("cannot publish port %d/%s at %v: %v", p.HostPort, p.Protocol, p.HostIP, f),
	}
}

// settle brings the switches of a VM's networks to what the inventory says, after an operation that failed or ports that are given up.
func (n *Networks) settle(ctx context.Context, v *vm.VM, net hostapi.Net) {
	for _, card := range v.NICs {
		network, ok := n.opt.Inventory.Network(card.Network)
		if !ok || !slices.ContainsFunc(net.Publish, func(p hostapi.Publication) bool { return networkOf(net, p) == network.Name }) {
			continue
		}
		if _, err := n.owner(network.Ref).tend(context.WithoutCancel(ctx), ""); err != nil {
			n.opt.Log.Warn("cannot tell a switch that ports are given up", "network", network.Name, "vm", v.Name, "err", err)
		}
	}
}

// Withdraw takes a VM whose machine has ended out of its networks, before that is published. When it returns its ports are free. The
// caller calls end when it is published.
func (n *Networks) Withdraw(v *vm.VM) (end func()) {
	if len(v.NICs) == 0 {
		return func() {}
	}
	n.mu.Lock()
	n.leaving[v.Ref] = v.Run
	n.mu.Unlock()
	if len(v.Published) > 0 {
		n.settle(n.ctx, v, v.Net())
	}
	return func() {
		n.mu.Lock()
		delete(n.leaving, v.Ref)
		n.mu.Unlock()
		n.Changed()
	}
}
