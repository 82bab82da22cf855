package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/inventory"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/networks"
)

// Reconfigure changes a VM: all of the change is done, or none of it and an error says why.
func (l *Lifecycle) Reconfigure(ctx context.Context, ref string, c vm.Change) error {
	e, release, err := l.opt.Inventory.Acquire(ctx, ref)
	if err != nil {
		return err
	}
	defer release()
	v := e.VM()
	next, err := l.applied(e, &c)
	if err != nil {
		return err
	}
	net, err := l.rejoin(ctx, v, next, &c)
	if err != nil {
		return err // in the words of who asks for ports
	}
	defer net.End()
	told, cards := false, l.changedSlots(v, next)
	if err = errors.Join(l.limitCPUs(ctx, v, next), l.limitLog(ctx, v, next)); err == nil {
		err = cards.plug(ctx)
	}
	if err == nil {
		err = l.opt.Disks.Change(ctx, e, c.Disks(), func() error {
			told = true // if it fails the guest may have seen it all the same
			if err := l.tellGuest(ctx, ref, c.Extra); err != nil {
				return err
			}
			return cards.unplug(ctx)
		}, func(v *vm.VM) {
			next.Config.Disk, next.Config.DataDisks, next.Config.Pool = v.Disk, v.DataDisks, v.Pool // the pool may have been destroyed meanwhile
			v.Config = next.Config
			if net.Active && v.Power == vm.PoweredOn { // its machine may have ended meanwhile
				v.Published = net.Published
			}
			maps.DeleteFunc(v.Guest, func(k, _ string) bool { _, set := c.Extra[k]; return set })
		})
	}
	if err == nil {
		return nil
	}
	err = fmt.Errorf("cannot reconfigure VM %s: %w", v.Name, err)
	ctx = context.WithoutCancel(ctx)
	err = errors.Join(err, cards.restore(ctx), l.limitCPUs(ctx, next, v), l.limitLog(ctx, next, v))
	if told {
		err = errors.Join(err, l.tellGuest(ctx, ref, former(v, c.Extra)))
	}
	net.Undo(ctx)
	return err
}

// limitCPUs has a machine that runs keep to the limit of what its VM is to be.
func (l *Lifecycle) limitCPUs(ctx context.Context, v, next *vm.VM) error {
	m, err := l.opt.Inventory.Live(v.Ref)
	if err != nil || v.CPULimit == next.CPULimit {
		return nil // off: it has the limit from its start on
	}
	return m.LimitCPUs(ctx, next.CPUShare())
}

// limitLog has a machine that runs keep as much of its log as its VM is to have.
func (l *Lifecycle) limitLog(ctx context.Context, v, next *vm.VM) error {
	m, err := l.opt.Inventory.Machine(v.Ref)
	if err != nil || v.Log() == next.Log() {
		return nil // off: it is told at its start
	}
	return m.SetLog(ctx, next.Log())
}

// rejoin prepares the networks for what a change makes of a VM that is on. Its ports are bound before its machine, and its guest, hear
// of anything: a container's gate opens when they are there.
func (l *Lifecycle) rejoin(ctx context.Context, v, next *vm.VM, c *vm.Change) (*networks.Operation, error) {
	same := !c.Cards.Any() && v.Extra[hostapi.KeyNet] == next.Extra[hostapi.KeyNet]
	if same || v.Power != vm.PoweredOn || v.Frozen {
		return &networks.Operation{}, nil
	}
	return l.opt.Networks.Begin(ctx, next, v)
}

// former returns what the keys of a change were before it.
func former(v *vm.VM, change map[string]string) map[string]string {
	old := map[string]string{}
	for k := range change {
		old[k] = v.Extra[k]
	}
	return old
}

// applied returns what the VM is after the change, or why it cannot be. What has to be unique in it is claimed.
func (l *Lifecycle) applied(e *inventory.Entry, c *vm.Change) (*vm.VM, error) {
	v := e.VM()
	if c.Version != 0 && c.Version != v.Version {
		return nil, &vm.ArgumentError{Property: "changeVersion", Why: fmt.Sprintf("%d, the configuration has version %d", c.Version, v.Version)}
	}
	if c.NeedsOff() && v.Power != vm.PoweredOff {
		return nil, &vm.StateError{Name: v.Name, Current: v.Power, Required: vm.PoweredOff}
	}
	if v.Frozen && (len(c.Disks()) > 0 || c.Cards.Any()) {
		return nil, &vm.FrozenError{Name: v.Name}
	}
	next := v.Copy()
	if err := edit(&next.Config, c); err != nil {
		return nil, err
	}
	if err := next.CheckSize(l.opt.Capacity); err != nil {
		return nil, err
	}
	if err := vm.CheckExtra(c.Extra); err != nil {
		return nil, err
	}
	if next.Name != v.Name || c.Cards.Any() {
		if err := e.Claim(next); err != nil {
			return nil, err
		}
	}
	next.Extra = vm.MergeExtra(next.Extra, c.Extra)
	if err := vm.CheckExtraSize(next.Extra); err != nil && len(c.Extra) > 0 {
		return nil, err
	}
	next.Modified, next.Version = time.Now().UTC(), v.Version+1
	return next, nil
}

// edit changes all of a configuration but extraConfig and the disk.
func edit(next *vm.Config, c *vm.Change) error {
	if c.CPUs != 0 {
		next.CPUs = c.CPUs
	}
	if c.CPULimit != nil {
		next.CPULimit = *c.CPULimit
	}
	if c.MemoryMiB != 0 {
		next.MemoryMiB = c.MemoryMiB
	}
	if c.GuestID != "" {
		next.GuestID = c.GuestID
	}
	if c.Annotation != "" {
		next.Annotation = c.Annotation
	}
	if c.UUID != "" {
		if err := vm.CheckUUID(c.UUID); err != nil {
			return err
		}
		next.UUID = strings.ToLower(c.UUID)
	}
	if c.Name != "" {
		if err := vm.CheckName(c.Name); err != nil {
			return err
		}
		next.Name = c.Name
	}
	var err error
	next.NICs, err = c.Cards.Applied(next.NICs)
	return err
}

// tellGuest hands changed guestinfo to a running machine.
func (l *Lifecycle) tellGuest(ctx context.Context, ref string, extra map[string]string) error {
	changed := vm.GuestKeys(extra)
	m, err := l.opt.Inventory.Live(ref)
	if err != nil || len(changed) == 0 {
		return nil // off: the guest reads it after the next power-on; frozen: it reads nothing any more
	}
	return m.SetGuestinfo(ctx, changed)
}
