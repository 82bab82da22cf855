package disks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/inventory"
)

// Change changes a VM's disks, also while it runs, tells the guest, and does the rest of a reconfiguration. When it fails all is as it was.
//
// What is added is in the machine before the guest is told, and what is removed until it is told: a rule of this host's contract
// (hostapi/spec.md). What is recorded at the beginning lets the next daemon roll back what is added, and once the guest is told, finish
// what is removed.
func (d *Disks) Change(ctx context.Context, e *inventory.Entry, changes []vm.DiskChange, tell func() error, rest func(*vm.VM)) error {
	p, err := d.plan(ctx, e.VM(), changes)
	if err != nil {
		return err
	}
	if len(p.add) > 0 {
		if err := d.attach(ctx, e, p.add); err != nil {
			return err
		}
	}
	if err = tell(); err == nil {
		err = d.settle(ctx, e, &p, rest)
	}
	if o := e.VM().InFlight; err != nil && o != nil && o.Kind == vm.OpAttach { // else the change is done, and its end is not recorded
		err = errors.Join(err, d.RollBackAttach(context.WithoutCancel(ctx), e))
	}
	return err
}

// attach makes disks and puts them into the machine, if there is one. When it fails nothing is left of them.
func (d *Disks) attach(ctx context.Context, e *inventory.Entry, add []vm.UnitDisk) error {
	if err := d.claim(e, add, func(v *vm.VM) { v.InFlight = operation(vm.OpAttach, add, nil) }); err != nil {
		return err
	}
	plugged := 0
	err := d.Make(ctx, add)
	for _, disk := range add {
		if err != nil {
			break
		}
		if err = d.plug(ctx, e.VM().Ref, &disk); err == nil {
			plugged++
		}
	}
	if err != nil {
		stuck := d.unplug(context.WithoutCancel(ctx), e, add[:plugged])
		return errors.Join(err, d.rollBackAttach(e, stuck))
	}
	return nil
}

// plug puts a disk into the machine, if there is one.
func (d *Disks) plug(ctx context.Context, ref string, disk *vm.UnitDisk) error {
	m, err := d.opt.Inventory.Live(ref)
	if err != nil {
		return nil // off: the disk is there at the next power-on
	}
	if err := d.plugInto(ctx, m, disk); err != nil {
		return fmt.Errorf("cannot attach disk %s: %w", datastore.FormatPath(disk.Path), err)
	}
	return nil
}

func (d *Disks) plugInto(ctx context.Context, m vm.Machine, disk *vm.UnitDisk) error {
	if disk.Unit == vm.RootSlot {
		return m.AttachDisk(ctx, d.opt.Store.HostPath(disk.Path), d.parentPath(&disk.Disk))
	}
	return m.PlugDisk(ctx, d.dataDisk(disk))
}

// unplugFrom takes a disk out of a machine, in which a data disk may be missing.
func unplugFrom(ctx context.Context, m vm.Machine, disk *vm.UnitDisk) error {
	if disk.Unit == vm.RootSlot {
		return m.DetachDisk(ctx)
	}
	if err := m.UnplugDisk(ctx, disk.Unit); !errors.Is(err, vm.ErrNoDisk) {
		return err
	}
	return nil
}

// RollBackAttach undoes an attach whose disks may be in the machine.
func (d *Disks) RollBackAttach(ctx context.Context, e *inventory.Entry) error {
	return d.rollBackAttach(e, d.unplug(ctx, e, inFlight(e.VM().InFlight)))
}

// rollBackAttach removes the files that a failed attach has made, and what is recorded of it. Disks that are stuck in the machine stay
// the VM's: nobody else may write to them.
func (d *Disks) rollBackAttach(e *inventory.Entry, stuck []vm.UnitDisk) error {
	for _, disk := range inFlight(e.VM().InFlight) {
		if !disk.Owned || holds(stuck, disk.Unit) {
			continue
		}
		if err := vm.RemoveFile(d.opt.Store, disk.Path); err != nil {
			return err
		}
	}
	return e.Change(inventory.Written, func(v *vm.VM) {
		v.InFlight = nil
		put(v, stuck)
	})
}

// unplug takes disks out of the machine, if there is one, after a half-done change. It returns the data disks that the guest does not
// let go of. The root slot may be empty already, or its guest may hold the disk: then its file stays open in the machine until that
// ends, which does no harm.
func (d *Disks) unplug(ctx context.Context, e *inventory.Entry, disks []vm.UnitDisk) (stuck []vm.UnitDisk) {
	m, _ := e.Machine()
	if m == nil {
		return nil
	}
	for _, disk := range disks {
		err := unplugFrom(ctx, m, &disk)
		if err == nil {
			continue
		}
		d.opt.Log.Warn("cannot take a disk out of a machine after an interrupted change", "vm", e.VM().Name, "disk", disk.Path, "err", err)
		if disk.Unit != vm.RootSlot {
			stuck = append(stuck, disk)
		}
	}
	return stuck
}

// settle does what of a change comes after the guest was told: it takes out what is removed, and records the rest. When it fails only what was
// added is left to be rolled back.
func (d *Disks) settle(ctx context.Context, e *inventory.Entry, p *plan, rest func(*vm.VM)) error {
	if len(p.remove) == 0 {
		return e.Change(inventory.Synced, func(v *vm.VM) {
			v.InFlight = nil
			put(v, p.add)
			rest(v)
		})
	}
	former := e.VM()
	if err := e.Change(inventory.Written, func(v *vm.VM) {
		put(v, p.add)
		rest(v)
		v.InFlight = operation(vm.OpDetach, p.remove, p.drop)
	}); err != nil {
		return err
	}
	if err := d.takeOut(ctx, e, p.remove); err != nil {
		return errors.Join(err, e.Change(inventory.Written, func(v *vm.VM) { revert(v, former) }))
	}
	return d.finishDetach(e)
}

// takeOut takes disks out of the machine, if there is one; when it fails all are there.
func (d *Disks) takeOut(ctx context.Context, e *inventory.Entry, remove []vm.UnitDisk) error {
	m, _ := e.Machine()
	if m == nil {
		return nil
	}
	for n, disk := range remove {
		err := unplugFrom(ctx, m, &disk)
		if err == nil {
			continue
		}
		err = fmt.Errorf("cannot detach disk %s: %w", datastore.FormatPath(disk.Path), err)
		for _, gone := range slices.Backward(remove[:n]) {
			err = errors.Join(err, d.plugInto(context.WithoutCancel(ctx), m, &gone))
		}
		return err
	}
	return nil
}

// revert makes the configuration of v, and what the guest has set, what they were.
func revert(v, former *vm.VM) {
	pool, set := v.Pool, v.Guest // the pool may have been destroyed meanwhile, and the guest may have set more
	old := former.Copy()
	v.Config, v.Guest, v.InFlight = old.Config, old.Guest, old.InFlight
	v.Pool = pool
	if v.Guest == nil {
		v.Guest = set
		return
	}
	maps.Copy(v.Guest, set)
}

// FinishDetach finishes what an earlier daemon has begun. A disk that the guest does not let go of stays the VM's.
func (d *Disks) FinishDetach(ctx context.Context, e *inventory.Entry) error {
	o := e.VM().InFlight
	stuck := d.unplug(ctx, e, inFlight(o))
	if len(stuck) > 0 {
		rest := *o
		rest.Data = slices.DeleteFunc(slices.Clone(o.Data), func(d vm.UnitDisk) bool { return holds(stuck, d.Unit) })
		rest.Drop = slices.DeleteFunc(slices.Clone(o.Drop), func(rel string) bool {
			return slices.ContainsFunc(stuck, func(d vm.UnitDisk) bool { return d.Path == rel })
		})
		if err := e.Change(inventory.Written, func(v *vm.VM) { v.InFlight = &rest }); err != nil {
			return err
		}
	}
	return d.finishDetach(e)
}

func (d *Disks) finishDetach(e *inventory.Entry) error {
	removed, files := inFlight(e.VM().InFlight), dropped(e.VM().InFlight)
	for _, rel := range files {
		if err := vm.RemoveFile(d.opt.Store, rel); err != nil {
			return err
		}
	}
	err := e.Change(inventory.Synced, func(v *vm.VM) {
		drop(v, removed)
		v.InFlight = nil
	})
	for _, disk := range removed {
		if err == nil && slices.Contains(files, disk.Path) {
			err = d.prune(context.Background(), disk.Parent)
		}
	}
	return err
}

// operation is an operation in flight on disks; unit 0 is the root slot.
func operation(kind string, disks []vm.UnitDisk, drop []string) *vm.Operation {
	o := &vm.Operation{Kind: kind}
	for _, disk := range disks {
		if disk.Unit == vm.RootSlot {
			root := disk.Disk
			o.Disk, o.MakeFile, o.DropFile = &root, kind == vm.OpAttach && root.Owned, slices.Contains(drop, root.Path)
			continue
		}
		o.Data = append(o.Data, disk)
		if slices.Contains(drop, disk.Path) {
			o.Drop = append(o.Drop, disk.Path)
		}
	}
	return o
}

// inFlight are the disks of an operation.
func inFlight(o *vm.Operation) []vm.UnitDisk {
	var disks []vm.UnitDisk
	if o.Disk != nil {
		disks = append(disks, vm.UnitDisk{Disk: *o.Disk})
	}
	return append(disks, o.Data...)
}

// dropped are the files that an operation removes.
func dropped(o *vm.Operation) []string {
	if o.DropFile {
		return append([]string{o.Disk.Path}, o.Drop...)
	}
	return o.Drop
}

func holds(disks []vm.UnitDisk, unit int) bool {
	return slices.ContainsFunc(disks, func(d vm.UnitDisk) bool { return d.Unit == unit })
}
