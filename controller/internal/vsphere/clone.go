package vsphere

import (
	"context"
	"fmt"
	"maps"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// scsiKey is the key that vSphere gives to a VM's first SCSI controller, so that a disk can be added in one call, without
// asking for the devices first.
const scsiKey = 1000

// apiVirtualCenter is what a host calls itself that knows instant clones (AboutInfo.apiType): an ESXi host alone does not.
const apiVirtualCenter = "VirtualCenter"

// CloneSpec says what an instant clone is to be. Memory, CPUs and devices are those of its source.
type CloneSpec struct {
	Name string // unique on the host, also the VM's directory
	UUID string // BIOS UUID, RFC 9562 text
	// ExtraConfig comes over what the clone inherits (hostapi.Inherited); an empty value removes a key.
	ExtraConfig map[string]string
	// RootParent is the datastore path of the disk of which the clone gets a delta as its root disk; empty: none. The host
	// must have hostapi.ExtensionDiskAtFork.
	RootParent string
	Cards      CardChange // what of its source's cards it has in another way
}

// CanClone reports whether the host makes instant clones at all.
func (c *Client) CanClone() bool { return c.vim.ServiceContent.About.ApiType == apiVirtualCenter }

// InstantClone makes a VM that goes on where source, which is on, stands now or, when it is frozen, stood when it froze.
// The clone runs when it returns.
func (c *Client) InstantClone(ctx context.Context, source Ref, spec CloneSpec) (Ref, error) {
	conf := types.VirtualMachineInstantCloneSpec{
		Name: spec.Name, BiosUuid: spec.UUID, Config: optionValues(c.cloneExtra(source, spec.ExtraConfig)),
	}
	var err error
	if conf.Location.DeviceChange, err = c.cardSpecs(ctx, source, spec.Cards); err != nil {
		return Ref{}, failed(err, "clone VM %s as %s", source.Value, spec.Name)
	}
	if spec.RootParent != "" {
		conf.Location.DeviceChange = append(conf.Location.DeviceChange, c.rootDelta(spec.Name, spec.RootParent))
	}
	result, err := c.run(ctx, func(ctx context.Context) (*object.Task, error) {
		return c.machine(source).InstantClone(ctx, conf)
	})
	if err != nil {
		return Ref{}, failed(err, "clone VM %s as %s", source.Value, spec.Name)
	}
	vm, ok := result.(types.ManagedObjectReference)
	if !ok {
		return Ref{}, fmt.Errorf("cannot clone VM %s as %s: the host's task yields %T, not a VM", source.Value, spec.Name, result)
	}
	return vm, c.settle(ctx, vm, func(now *VM) bool { return now != nil })
}

// cloneExtra returns extra with the removal of those keys of the source that a clone does not inherit: a vCenter's clone has
// all of them. Keys that the host alone sets exist only where clones do not inherit them.
func (c *Client) cloneExtra(source Ref, extra map[string]string) map[string]string {
	all := map[string]string{}
	if src := c.now(source); src != nil {
		for key := range src.Extra {
			if !hostapi.Inherited(key) && !hostapi.SetByHost(key) {
				all[key] = ""
			}
		}
	}
	maps.Copy(all, extra)
	return all
}

// rootDelta adds a delta of parent to a VM that exists, as its root disk.
func (c *Client) rootDelta(name, parent string) *types.VirtualDeviceConfigSpec {
	change := c.newDelta(rootDisk(name), parent)
	change.Device.GetVirtualDevice().ControllerKey = scsiKey
	return change
}

// AttachRoot gives a VM, which may run and must have no disk, a delta of the disk parent as its root disk, and with the same
// operation changes keys of extraConfig: see Change.
func (c *Client) AttachRoot(ctx context.Context, vm Ref, name, parent string, extra map[string]string) error {
	return c.Change(ctx, vm, Change{RootDir: name, RootParent: parent, Extra: extra})
}
