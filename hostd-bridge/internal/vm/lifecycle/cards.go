package lifecycle

import (
	"context"
	"errors"
	"fmt"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// cardSlots are what the slots of a running machine have before and after a change, where that is not the same.
type cardSlots struct {
	machine   vm.Machine
	old, next map[int]vm.NIC
}

// changedSlots compares a VM with what it is to be. One that is off has no slots.
func (l *Lifecycle) changedSlots(v, next *vm.VM) *cardSlots {
	c := &cardSlots{old: map[int]vm.NIC{}, next: map[int]vm.NIC{}}
	var err error
	if c.machine, err = l.opt.Inventory.Live(v.Ref); err != nil {
		return c
	}
	old, now := v.Slots(l.opt.Networks.Socket), next.Slots(l.opt.Networks.Socket)
	for slot := range max(len(old), len(now)) {
		var before, after vm.NIC
		if slot < len(old) {
			before = old[slot]
		}
		if slot < len(now) {
			after = now[slot]
		}
		if before != after {
			c.old[slot], c.next[slot] = before, after
		}
	}
	return c
}

// plug puts in new cards and changes those that stay.
func (c *cardSlots) plug(ctx context.Context) error {
	for slot, nic := range c.next {
		if nic == (vm.NIC{}) {
			continue
		}
		if err := c.set(ctx, slot, nic); err != nil {
			return err
		}
	}
	return nil
}

// unplug takes out the cards that are removed.
func (c *cardSlots) unplug(ctx context.Context) error {
	for slot, nic := range c.next {
		if nic != (vm.NIC{}) {
			continue
		}
		if err := c.set(ctx, slot, nic); err != nil {
			return err
		}
	}
	return nil
}

// restore makes the slots what they were before.
func (c *cardSlots) restore(ctx context.Context) (err error) {
	for slot, nic := range c.old {
		err = errors.Join(err, c.set(ctx, slot, nic))
	}
	return err
}

func (c *cardSlots) set(ctx context.Context, slot int, nic vm.NIC) error {
	if err := c.machine.SetNIC(ctx, slot, nic); err != nil {
		return fmt.Errorf("cannot change network adapter %d: %w", slot+1, err)
	}
	return nil
}

// resetCards tells a machine that was found again what its cards are: the daemon before may have died while it changed them.
func (l *Lifecycle) resetCards(ctx context.Context, v *vm.VM, m vm.Machine) {
	slots := v.Slots(l.opt.Networks.Socket)
	for slot := range max(len(slots), hostapi.MaxCards) {
		var nic vm.NIC
		if slot < len(slots) {
			nic = slots[slot]
		}
		if err := m.SetNIC(ctx, slot, nic); err != nil {
			l.opt.Log.Warn("cannot tell a machine what its network adapter is", "vm", v.Name, "slot", slot, "err", err)
		}
	}
}
