package networks

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/netswitch"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// member is a VM that its networks know.
type member struct {
	*vm.VM
	net     hostapi.Net
	publish []hostapi.Publication
	intent  *intent // of the operation in flight, if there is one
}

// members are the VMs that are on and do not stand at a fork point, as operations in flight are about to make them; in a fixed order.
func (n *Networks) members() []*member {
	var out []*member
	add := func(v *vm.VM, i *intent) {
		m := &member{VM: v, intent: i, net: n.netLocked(v), publish: v.Published}
		if i != nil {
			m.publish = i.publish
		}
		out = append(out, m)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	vms := n.opt.Inventory.ListAll() // under the lock: an operation's intent goes when the inventory has what it made
	present := make(map[string]bool, len(vms))
	for _, v := range vms {
		present[v.Ref] = true
		i := n.intents[v.Ref]
		run, leaves := n.leaving[v.Ref]
		switch {
		case i != nil && i.start:
			add(i.next, i)
		case v.Power != vm.PoweredOn || v.Frozen || (leaves && run == v.Run):
		case i != nil:
			add(i.next, i)
		default:
			add(v, nil)
		}
	}
	for ref := range n.decoded {
		if !present[ref] {
			delete(n.decoded, ref)
		}
	}
	slices.SortFunc(out, func(a, b *member) int {
		return cmp.Or(cmp.Compare(len(a.Ref), len(b.Ref)), strings.Compare(a.Ref, b.Ref))
	})
	return out
}

// netLocked reads a VM's hostapi.KeyNet, once as long as it is the same. The caller holds mu.
func (n *Networks) netLocked(v *vm.VM) hostapi.Net {
	d, ok := n.decoded[v.Ref]
	if text := v.Extra[hostapi.KeyNet]; !ok || d.text != text {
		d = decoded{text: text, net: v.Net()}
		n.decoded[v.Ref] = d
	}
	return d.net
}

// endpoint is what the VM is in the network with a name; nil: it says nothing of it.
func (m *member) endpoint(network string) *hostapi.Endpoint {
	for i := range m.net.Endpoints {
		if m.net.Endpoints[i].Network == network {
			return &m.net.Endpoints[i]
		}
	}
	return nil
}

// card is the VM's connected card in a network, or nil.
func (m *member) card(ref string) *vm.Card {
	for i := range m.NICs {
		if c := &m.NICs[i]; c.Network == ref && c.Connected {
			return c
		}
	}
	return nil
}

// networkOf is the name of the network by which a publication reaches its VM.
func networkOf(net hostapi.Net, p hostapi.Publication) string {
	if p.Network == "" && len(net.Endpoints) > 0 {
		return net.Endpoints[0].Network
	}
	return p.Network
}

// config is what the switch of a network is to be told now; false: there is no such network.
func (n *Networks) config(ref string) (netswitch.Config, bool) {
	network, ok := n.opt.Inventory.Network(ref)
	if !ok {
		return netswitch.Config{}, false
	}
	names := map[string]string{}
	for _, other := range n.opt.Inventory.Networks() {
		names[other.Ref] = other.Name
	}
	c := netswitch.Config{
		Name: network.Name, Gateways: network.Settings.Gateways, Internal: network.Settings.Internal, MTU: network.Settings.MTU,
		HostGateway: n.opt.HostGateway, Denied: n.subnets(ref),
	}
	all := n.members()
	for _, m := range all {
		card := m.card(ref)
		if card == nil {
			if old := m.departing(network); old != nil {
				c.Endpoints = append(c.Endpoints, *old)
			}
			continue
		}
		e := netswitch.Endpoint{VM: m.Ref, MAC: card.MAC, HostGateway: m.net.HostGateway, Others: m.others(ref, all, names)}
		if at := m.endpoint(network.Name); at != nil {
			e.Addresses, e.Names = at.Addresses, at.Names
		}
		if !network.Settings.Internal {
			e.Publish = m.published(network.Name)
		}
		c.Endpoints = append(c.Endpoints, e)
	}
	return c, true
}

// published are the VM's publications in the network with a name, and during an operation those too that it takes away when it
// succeeds: until then nothing is given up.
func (m *member) published(network string) (out []hostapi.Publication) {
	for _, p := range m.publish {
		if networkOf(m.net, p) == network {
			out = append(out, p)
		}
	}
	if m.intent == nil {
		return out
	}
	for _, old := range m.intent.before {
		if networkOf(m.intent.beforeNet, old) == network && !slices.ContainsFunc(m.publish, func(p hostapi.Publication) bool { return overlap(p, old) }) {
			out = append(out, old)
		}
	}
	return out
}

// overlap says whether two publications may want the same port.
func overlap(a, b hostapi.Publication) bool {
	if a.Protocol != b.Protocol || a.HostPort == 0 || b.HostPort == 0 {
		return a == b
	}
	return a.HostPort <= max(b.HostPort, b.HostPortEnd) && b.HostPort <= max(a.HostPort, a.HostPortEnd)
}

// departing is what a running VM was until now in a network that the operation in flight takes it out of; nil: it does not.
func (m *member) departing(network *vm.Network) *netswitch.Endpoint {
	if m.intent == nil || m.intent.old == nil {
		return nil
	}
	old := &member{VM: m.intent.old, net: m.intent.beforeNet}
	card := old.card(network.Ref)
	if card == nil {
		return nil
	}
	e := &netswitch.Endpoint{VM: m.Ref, MAC: card.MAC, HostGateway: old.net.HostGateway}
	if at := old.endpoint(network.Name); at != nil {
		e.Addresses, e.Names = at.Addresses, at.Names
	}
	if !network.Settings.Internal {
		e.Publish = m.published(network.Name)
	}
	return e
}

// others are the names by which the VM finds who is in its other networks.
func (m *member) others(but string, all []*member, names map[string]string) (out []netswitch.Name) {
	for _, card := range m.NICs {
		if card.Network == but || !card.Connected {
			continue
		}
		for _, other := range all {
			at := other.endpoint(names[card.Network])
			if at == nil || len(at.Addresses) == 0 || other.card(card.Network) == nil {
				continue
			}
			for _, name := range at.Names {
				out = append(out, netswitch.Name{Name: name, Addresses: at.Addresses})
			}
		}
	}
	return out
}

// keep returns the publications of a VM with the ports that they were given before, where they are the same.
func keep(now, bound []hostapi.Publication) []hostapi.Publication {
	out := slices.Clone(now)
	used := make([]bool, len(bound))
	for i := range out {
		for j, old := range bound {
			if !used[j] && allows(out[i], old) {
				out[i], used[j] = old, true
				break
			}
		}
	}
	return out
}

// allows says whether a publication that was bound is what another asks for.
func allows(p, bound hostapi.Publication) bool {
	same := p.Protocol == bound.Protocol && p.HostIP == bound.HostIP && p.Port == bound.Port && p.Network == bound.Network
	return same && (p.HostPort == 0 || bound.HostPort >= p.HostPort && bound.HostPort <= max(p.HostPort, p.HostPortEnd))
}

// reachable says whether a network has a gateway through which a port can lead to one of the addresses.
func reachable(gateways []netip.Prefix, addresses []netip.Addr) bool {
	return slices.ContainsFunc(addresses, func(a netip.Addr) bool {
		return slices.ContainsFunc(gateways, func(g netip.Prefix) bool { return g.Addr().Is4() == a.Is4() })
	})
}
