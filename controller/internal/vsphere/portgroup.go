package vsphere

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// distributedPortGroup is the type of the managed objects that are port groups of a switch that spans hosts.
const distributedPortGroup = "DistributedVirtualPortgroup"

// DefaultNetwork is vSphere's name of the network where cards are that name none.
func (c *Client) DefaultNetwork() string { return c.place.networkName }

// findNetwork finds the network with a name, or without one the host's usual network, else the only one.
func findNetwork(ctx context.Context, f *find.Finder, name string) (object.NetworkReference, error) {
	if name != "" {
		return f.Network(ctx, name)
	}
	all, err := f.NetworkList(ctx, "*")
	if err != nil {
		return nil, err
	}
	if len(all) == 1 {
		return all[0], nil
	}
	i := slices.IndexFunc(all, func(n object.NetworkReference) bool { return networkName(n) == hostapi.DefaultNetwork })
	if i < 0 {
		return nil, fmt.Errorf("there are %d, and none is called %q: name one", len(all), hostapi.DefaultNetwork)
	}
	return all[i], nil
}

func networkName(n object.NetworkReference) string { return path.Base(n.GetInventoryPath()) }

// cardBacking says what a card in a network is connected to. It makes calls for networks of a distributed switch only.
func (c *Client) cardBacking(ctx context.Context, name string) (types.BaseVirtualDeviceBackingInfo, error) {
	if !c.place.distributed() {
		return &types.VirtualEthernetCardNetworkBackingInfo{
			VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: name},
		}, nil
	}
	network, err := c.finder().Network(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("cannot find network %q: %w", name, err)
	}
	return network.EthernetCardBackingInfo(ctx)
}

// distributed reports whether the host's networks are port groups of a switch that spans hosts.
func (p place) distributed() bool { return p.network.Reference().Type == distributedPortGroup }

func (c *Client) finder() *find.Finder {
	f := find.NewFinder(c.vim)
	f.SetDatacenter(c.place.datacenter)
	return f
}

// PortGroups returns the names of the networks that the host's machines can have cards in.
func (c *Client) PortGroups(ctx context.Context) ([]string, error) {
	pc := property.DefaultCollector(c.vim)
	var dc mo.Datacenter
	if err := pc.RetrieveOne(ctx, c.place.datacenter.Reference(), []string{"network"}, &dc); err != nil {
		return nil, failed(err, "list networks")
	}
	var names []string
	var networks []mo.Network
	if len(dc.Network) == 0 {
		return nil, nil
	}
	if err := pc.Retrieve(ctx, dc.Network, []string{"name"}, &networks); err != nil {
		return nil, failed(err, "list networks")
	}
	for _, n := range networks {
		names = append(names, n.Name)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// AddPortGroup makes a network beside the default one: a port group of the same switch, on each host that machines may be on. The
// error is of class errdefs.ErrAlreadyExists when there is one with the name.
func (c *Client) AddPortGroup(ctx context.Context, name string) error {
	if c.place.distributed() {
		return failed(c.addDistributed(ctx, name), "make network %s", name)
	}
	hosts, err := c.networkSystems(ctx)
	if err != nil {
		return failed(err, "make network %s", name)
	}
	for i, host := range hosts {
		spec := types.HostPortGroupSpec{Name: name, VswitchName: host.vswitch, Policy: types.HostNetworkPolicy{}}
		if err := host.system.AddPortGroup(ctx, spec); err != nil {
			if i > 0 { // not the first host: what was made is taken away again
				err = errors.Join(err, removeFrom(context.WithoutCancel(ctx), hosts[:i], name))
			}
			return failed(err, "make network %s", name)
		}
	}
	return nil
}

// RemovePortGroup removes a network; one that does not exist is no error. The error is of class errdefs.ErrConflict while a
// machine has a card there.
func (c *Client) RemovePortGroup(ctx context.Context, name string) error {
	if c.place.distributed() {
		return failed(c.removeDistributed(ctx, name), "remove network %s", name)
	}
	hosts, err := c.networkSystems(ctx)
	if err == nil {
		err = removeFrom(ctx, hosts, name)
	}
	return failed(err, "remove network %s", name)
}

func removeFrom(ctx context.Context, hosts []networkSystem, name string) error {
	for _, host := range hosts {
		if err := host.system.RemovePortGroup(ctx, name); err != nil && !fault.Is(err, &types.NotFound{}) {
			return err
		}
	}
	return nil
}

// networkSystem is what makes port groups on one host.
type networkSystem struct {
	system  *object.HostNetworkSystem
	vswitch string // name of the switch that has the default network
}

// networkSystems are those of the hosts that may run what is made in the resource pool.
func (c *Client) networkSystems(ctx context.Context) ([]networkSystem, error) {
	pc := property.DefaultCollector(c.vim)
	var pool mo.ResourcePool
	if err := pc.RetrieveOne(ctx, c.place.pool.Reference(), []string{"owner"}, &pool); err != nil {
		return nil, err
	}
	var compute mo.ComputeResource
	if err := pc.RetrieveOne(ctx, pool.Owner, []string{"host"}, &compute); err != nil {
		return nil, err
	}
	var all []networkSystem
	for _, ref := range compute.Host {
		system, err := object.NewHostSystem(c.vim, ref).ConfigManager().NetworkSystem(ctx)
		if err != nil {
			return nil, err
		}
		var has mo.HostNetworkSystem
		if err := pc.RetrieveOne(ctx, system.Reference(), []string{"networkInfo"}, &has); err != nil {
			return nil, err
		}
		vswitch, err := switchOf(has.NetworkInfo, c.place.networkName)
		if err != nil {
			return nil, err
		}
		all = append(all, networkSystem{system: system, vswitch: vswitch})
	}
	if len(all) == 0 {
		return nil, errors.New("its resource pool has no host")
	}
	return all, nil
}

// switchOf is the name of the switch that a port group is of.
func switchOf(info *types.HostNetworkInfo, portGroup string) (string, error) {
	if info == nil {
		return "", errors.New("the host does not tell its networks")
	}
	for _, group := range info.Portgroup {
		if group.Spec.Name == portGroup {
			return group.Spec.VswitchName, nil
		}
	}
	return "", fmt.Errorf("the host has no port group %q", portGroup)
}

func (c *Client) addDistributed(ctx context.Context, name string) error {
	if _, err := c.finder().Network(ctx, name); err == nil {
		return fmt.Errorf("there is a network with the name: %w", errdefs.ErrAlreadyExists)
	}
	dvs, err := c.distributedSwitch(ctx)
	if err != nil {
		return err
	}
	return c.wait(ctx, func(ctx context.Context) (*object.Task, error) {
		return dvs.AddPortgroup(ctx, []types.DVPortgroupConfigSpec{{
			Name: name, Type: string(types.DistributedVirtualPortgroupPortgroupTypeEarlyBinding), AutoExpand: types.NewBool(true),
		}})
	})
}

// distributedSwitch is the switch that has the default network.
func (c *Client) distributedSwitch(ctx context.Context) (*object.DistributedVirtualSwitch, error) {
	var group mo.DistributedVirtualPortgroup
	pc := property.DefaultCollector(c.vim)
	if err := pc.RetrieveOne(ctx, c.place.network.Reference(), []string{"config.distributedVirtualSwitch"}, &group); err != nil {
		return nil, err
	}
	if group.Config.DistributedVirtualSwitch == nil {
		return nil, errors.New("the switch of its network may not be read: the privilege System.Read is missing")
	}
	return object.NewDistributedVirtualSwitch(c.vim, *group.Config.DistributedVirtualSwitch), nil
}

func (c *Client) removeDistributed(ctx context.Context, name string) error {
	network, err := c.finder().Network(ctx, name)
	var none *find.NotFoundError
	if errors.As(err, &none) {
		return nil
	}
	if err != nil {
		return err
	}
	if network.Reference().Type != distributedPortGroup {
		return fmt.Errorf("it is no port group of a distributed switch: %w", errdefs.ErrFailedPrecondition)
	}
	return c.wait(ctx, object.NewCommon(c.vim, network.Reference()).Destroy)
}
