package vim

import (
	"fmt"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

const (
	switchKey    = "key-vim.host.VirtualSwitch-" + switchName
	portGroupKey = "key-vim.host.PortGroup-"
	// defaultMTU is shown of networks that do not say theirs, in bytes: Ethernet's (RFC 894).
	defaultMTU = 1500
	// maxPorts is how many ports the virtual switch shows: an ESXi host's maximum (vSphere 8 configuration maximums).
	maxPorts = 4096
)

func (o *objects) networkRefs() []types.ManagedObjectReference {
	out := []types.ManagedObjectReference{}
	for _, n := range o.server.Inventory.Networks() {
		out = append(out, networkRef(n.Ref))
	}
	return out
}

func (o *objects) networkFolder() any {
	return folder(networkFolderRef, datacenterRef, "network", []string{"Folder", "Network"}, o.networkRefs()...)
}

// network returns a network as a managed object.
func (o *objects) network(ref types.ManagedObjectReference) (any, bool) {
	n, ok := o.server.Inventory.Network(ref.Value)
	if !ok {
		return nil, false
	}
	out := &mo.Network{
		ManagedEntity: entity(ref, networkFolderRef, n.Name), Name: n.Name,
		Summary: &types.NetworkSummary{Network: &ref, Name: n.Name, Accessible: true},
		Host:    []types.ManagedObjectReference{hostRef}, Vm: []types.ManagedObjectReference{},
	}
	for _, v := range o.server.Inventory.List() {
		if v.In(n.Ref) {
			out.Vm = append(out.Vm, vmRef(v.Ref))
		}
	}
	return out, true
}

// networkSystem says how the host's networks look to vSphere: one virtual switch without an uplink, and a port group for each
// network. That networks are separate from each other has no word there.
func (o *objects) networkSystem() any {
	info := &types.HostNetworkInfo{
		Vnic: []types.HostVirtualNic{}, Pnic: []types.PhysicalNic{}, Portgroup: []types.HostPortGroup{},
	}
	policy := networkPolicy()
	vswitch := types.HostVirtualSwitch{
		Name: switchName, Key: switchKey, NumPorts: maxPorts, NumPortsAvailable: maxPorts, Mtu: defaultMTU,
		Spec: types.HostVirtualSwitchSpec{NumPorts: maxPorts, Policy: &policy, Mtu: defaultMTU},
	}
	vms := o.server.Inventory.List()
	for _, n := range o.server.Inventory.Networks() {
		group := types.HostPortGroup{
			Key: portGroupKey + n.Name, Vswitch: switchKey, ComputedPolicy: policy,
			Spec: types.HostPortGroupSpec{Name: n.Name, VswitchName: switchName, Policy: types.HostNetworkPolicy{}},
			Port: ports(n, vms),
		}
		vswitch.Portgroup = append(vswitch.Portgroup, group.Key)
		vswitch.NumPortsAvailable -= int32(len(group.Port))
		info.Portgroup = append(info.Portgroup, group)
	}
	info.Vswitch = []types.HostVirtualSwitch{vswitch}
	return &mo.HostNetworkSystem{
		ExtensibleManagedObject: mo.ExtensibleManagedObject{Self: networkSystemRef}, NetworkInfo: info,
		Capabilities: &types.HostNetCapabilities{UsesServiceConsoleNic: false},
	}
}

// ports are the connected cards in a network of VMs that are on.
func ports(n *vm.Network, vms []*vm.VM) (out []types.HostPortGroupPort) {
	for _, v := range vms {
		for _, card := range v.NICs {
			if v.Power == vm.PoweredOn && card.Network == n.Ref && card.Connected {
				out = append(out, types.HostPortGroupPort{
					Key: fmt.Sprintf("%s%s-%s-%d", portGroupKey, n.Name, v.Ref, card.Key),
					Mac: []string{card.MAC}, Type: string(types.PortGroupConnecteeTypeVirtualMachine),
				})
			}
		}
	}
	return out
}

// networkPolicy is the one policy: a card sends from its own address, and receives what is for it.
func networkPolicy() types.HostNetworkPolicy {
	return types.HostNetworkPolicy{Security: &types.HostNetworkSecurityPolicy{
		AllowPromiscuous: types.NewBool(false), MacChanges: types.NewBool(false), ForgedTransmits: types.NewBool(false),
	}}
}

func addPortGroup(c *call, req *types.AddPortGroup) (*types.AddPortGroupResponse, error) {
	if req.This != networkSystemRef {
		return nil, notFound(req.This)
	}
	if err := checkPortGroup(&req.Portgrp); err != nil {
		return nil, err
	}
	inv := c.server.Inventory
	if n, ok := inv.NetworkNamed(req.Portgrp.Name); ok {
		return nil, fault(&types.AlreadyExists{Name: n.Name}, "the port group %q is there already", n.Name)
	}
	_, err := inv.CreateNetwork(req.Portgrp.Name)
	return &types.AddPortGroupResponse{}, err
}

// checkPortGroup refuses what the one kind of port group cannot be, by name.
func checkPortGroup(spec *types.HostPortGroupSpec) error {
	if spec.VswitchName != switchName {
		return fault(&types.NotFound{}, "this host has no virtual switch %q: its one is %s", spec.VswitchName, switchName)
	}
	if spec.VlanId != 0 {
		return invalidArgument("portgrp.vlanId", "networks of this host have no VLANs: each is separate from the others with VLAN 0, not %d", spec.VlanId)
	}
	p := &spec.Policy
	for name, set := range map[string]bool{
		"nicTeaming": p.NicTeaming != nil, "offloadPolicy": p.OffloadPolicy != nil, "shapingPolicy": p.ShapingPolicy != nil,
	} {
		if set {
			return invalidArgument("portgrp.policy."+name, "networks of this host have no %s: leave it out", name)
		}
	}
	if s := p.Security; s != nil {
		for name, allow := range map[string]*bool{
			"allowPromiscuous": s.AllowPromiscuous, "macChanges": s.MacChanges, "forgedTransmits": s.ForgedTransmits,
		} {
			if isTrue(allow) {
				return invalidArgument("portgrp.policy.security."+name, "networks of this host never allow %s: leave it out, or false", name)
			}
		}
	}
	return nil
}

func removePortGroup(c *call, req *types.RemovePortGroup) (*types.RemovePortGroupResponse, error) {
	if req.This != networkSystemRef {
		return nil, notFound(req.This)
	}
	n, ok := c.server.Inventory.NetworkNamed(req.PgName)
	if !ok {
		return nil, fault(&types.NotFound{}, "this host has no port group %q", req.PgName)
	}
	return &types.RemovePortGroupResponse{}, c.server.Inventory.RemoveNetwork(n.Ref)
}

// updatePortGroup is refused: the name is all that a port group has, and cards and clients know it by that.
func updatePortGroup(*call, *types.UpdatePortGroup) (*types.UpdatePortGroupResponse, error) {
	return nil, fault(&types.NotSupported{}, "A port group of this host cannot be changed: add another one and move the network adapters there.")
}
