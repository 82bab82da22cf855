package vsphere

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// Properties of a VM that the watch follows.
const (
	propName   = "name"
	propUUID   = "config.uuid"
	propExtra  = "config.extraConfig"
	propCPUs   = "config.hardware.numCPU"
	propMemory = "config.hardware.memoryMB"
	propPower  = "runtime.powerState"
	propFrozen = "runtime.instantCloneFrozen"
)

const (
	// pollSeconds is how long the host may hold a WaitForUpdatesEx back. It bounds how long a dead connection goes
	// unnoticed; changes are answered at once.
	pollSeconds = 300
	// retryFirst and retryMost bound the pause before the watch is set up again after the host went away.
	retryFirst = 50 * time.Millisecond
	retryMost  = 5 * time.Second
)

// watch keeps the inventory up to date until ctx ends. It sends to first once: nil when the inventory is complete, or
// why it cannot be had, and then it has ended.
func (c *Client) watch(ctx context.Context, first chan<- error) {
	pause := retryFirst
	for {
		complete := false
		err := c.follow(ctx, func() {
			complete, pause = true, retryFirst
			if first != nil {
				first <- nil
				first = nil
			}
		})
		if first != nil {
			first <- fmt.Errorf("cannot watch its virtual machines: %w", err)
			return
		}
		if ctx.Err() != nil {
			return
		}
		c.log.Warn("lost the watch over the virtual machines, setting it up again", "complete", complete, "pause", pause, "err", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, retryMost)
	}
}

// follow sets up a view and a collector of its own and applies updates until an error. It calls complete when the
// whole inventory is known.
func (c *Client) follow(ctx context.Context, complete func()) error {
	vms, err := view.NewManager(c.vim).CreateContainerView(ctx, c.vim.ServiceContent.RootFolder, []string{"VirtualMachine"}, true)
	if err != nil {
		return err
	}
	defer c.discard(vms.Destroy)
	pc, err := property.DefaultCollector(c.vim).Create(ctx)
	if err != nil {
		return err
	}
	defer c.discard(pc.Destroy)
	if _, err := pc.CreateFilter(ctx, watchFilter(vms.Reference(), c.vim.ServiceContent.TaskManager)); err != nil {
		return err
	}
	c.forgetTasks()
	return c.poll(ctx, pc.Reference(), complete)
}

func (c *Client) poll(ctx context.Context, collector types.ManagedObjectReference, complete func()) error {
	seen := map[Ref]bool{} // by this collector, until its first picture is complete
	req := types.WaitForUpdatesEx{This: collector, Options: &types.WaitOptions{MaxWaitSeconds: types.NewInt32(pollSeconds)}}
	for {
		res, err := methods.WaitForUpdatesEx(ctx, c.vim, &req)
		if err != nil {
			return err
		}
		set := res.Returnval
		if set == nil {
			continue // nothing happened within pollSeconds
		}
		req.Version = set.Version
		for _, fs := range set.FilterSet {
			for _, u := range fs.ObjectSet {
				c.apply(u)
				if seen != nil {
					seen[u.Obj] = true
				}
			}
		}
		if seen != nil && (set.Truncated == nil || !*set.Truncated) {
			c.forget(seen)
			seen = nil
			complete()
		}
	}
}

// apply enters one update into the inventory.
func (c *Client) apply(u types.ObjectUpdate) {
	if u.Obj.Type == "Task" {
		c.applyTask(u)
		return
	}
	if u.Kind == types.ObjectUpdateKindLeave {
		c.publish(u.Obj, nil)
		return
	}
	c.mu.Lock()
	next := VM{Ref: u.Obj}
	if now := c.vms[u.Obj]; now != nil {
		next = *now
	}
	c.mu.Unlock() // the watch is the only writer
	for _, change := range u.ChangeSet {
		next.set(change)
	}
	c.publish(u.Obj, &next)
}

// forget removes the VMs that a new watch did not find: they went away while nobody watched.
func (c *Client) forget(seen map[Ref]bool) {
	c.mu.Lock()
	known := maps.Clone(c.vms)
	c.mu.Unlock()
	for ref := range known {
		if !seen[ref] {
			c.publish(ref, nil)
		}
	}
}

// set applies a property change. A property that is unset has no value, which leaves the zero value.
func (vm *VM) set(change types.PropertyChange) {
	switch change.Name {
	case propName:
		vm.Name, _ = change.Val.(string)
	case propUUID:
		vm.UUID, _ = change.Val.(string)
	case propCPUs:
		n, _ := change.Val.(int32)
		vm.CPUs = int(n)
	case propMemory:
		n, _ := change.Val.(int32)
		vm.MemoryMiB = int(n)
	case propPower:
		state, _ := change.Val.(types.VirtualMachinePowerState)
		vm.PowerState = PowerState(state)
	case propFrozen:
		vm.Frozen, _ = change.Val.(bool)
	case propExtra:
		options, _ := change.Val.(types.ArrayOfOptionValue)
		vm.Extra = extraMap(options.OptionValue)
	}
}

func extraMap(options []types.BaseOptionValue) map[string]string {
	extra := make(map[string]string, len(options))
	for _, o := range options {
		kv := o.GetOptionValue()
		if s, ok := kv.Value.(string); ok {
			extra[kv.Key] = s
		}
	}
	return extra
}

// watchFilter asks for the watched properties of all VMs in a view and of the host's latest tasks, so that an operation
// needs no watch of its own.
func watchFilter(view types.ManagedObjectReference, tasks *types.ManagedObjectReference) types.CreateFilter {
	members := func(of types.ManagedObjectReference, path string) types.ObjectSpec {
		return types.ObjectSpec{
			Obj:       of,
			Skip:      types.NewBool(true),
			SelectSet: []types.BaseSelectionSpec{&types.TraversalSpec{Type: of.Type, Path: path}},
		}
	}
	spec := types.PropertyFilterSpec{
		ObjectSet: []types.ObjectSpec{members(view, "view")},
		PropSet: []types.PropertySpec{{
			Type:    "VirtualMachine",
			PathSet: []string{propName, propUUID, propExtra, propCPUs, propMemory, propPower, propFrozen},
		}},
	}
	if tasks != nil {
		spec.ObjectSet = append(spec.ObjectSet, members(*tasks, "recentTask"))
		spec.PropSet = append(spec.PropSet, types.PropertySpec{
			Type: "Task", PathSet: []string{propTaskState, propTaskError, propTaskResult},
		})
	}
	return types.CreateFilter{Spec: spec}
}

// discard removes an object of the session on the host; where that fails the session's end removes it.
func (c *Client) discard(destroy func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), logoutTimeout)
	defer cancel()
	if err := destroy(ctx); err != nil {
		c.log.Debug("cannot remove an object of the watch", "err", err)
	}
}
