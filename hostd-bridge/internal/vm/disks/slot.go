// Package disks changes what disks VMs have, in their root slots and at the units of their SCSI controllers, keeps them as they were at
// fork points, and makes and removes disks that belong to no VM.
//
// Of those who have one file open at a time none may write: a file that a machine writes to is its own, and one that machines
// read does not change. A VM that is off has nothing open.
package disks

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"slices"
	"sync"

	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/inventory"
)

// Options is what Disks works with.
type Options struct {
	Inventory *inventory.Inventory
	Store     *datastore.Store
	Files     vm.Disks
	Blank     string // datastore path of the disk that new disks without a parent are deltas of
	Log       *slog.Logger
}

// Disks changes the disks of VMs.
type Disks struct {
	opt    Options
	forks  sync.Mutex // see inventory, Lock order
	claims sync.Mutex // see there
}

// New returns the disks of a host.
func New(opt Options) *Disks { return &Disks{opt: opt} }

// Plan records what disks a VM that is being made will have, so that the next daemon finds what was made of it. It returns them for Make.
func (d *Disks) Plan(ctx context.Context, e *inventory.Entry, changes []vm.DiskChange) ([]vm.UnitDisk, error) {
	p, err := d.plan(ctx, e.VM(), changes)
	if err != nil {
		return nil, err
	}
	return p.add, d.claim(e, p.add, func(v *vm.VM) { put(v, p.add) })
}

// claim records that a VM will have disks. The file of one that it owns is removed when the VM's creation or change is rolled back, so there
// must be none yet, and no other VM that is about to make it. Others must not be locked by a machine that has them.
func (d *Disks) claim(e *inventory.Entry, add []vm.UnitDisk, edit func(*vm.VM)) error {
	if len(add) == 0 {
		return nil
	}
	d.claims.Lock()
	defer d.claims.Unlock()
	for _, disk := range add {
		if err := d.claimable(e.VM(), &disk); err != nil {
			return err
		}
	}
	return e.Change(inventory.Written, edit)
}

func (d *Disks) claimable(v *vm.VM, disk *vm.UnitDisk) error {
	if disk.Owned {
		if err := d.vacant(disk.Path); err != nil {
			return err
		}
	}
	if disk.Owned {
		for _, other := range d.opt.Inventory.ListAll() {
			if has(other, disk.Path) != nil {
				return &vm.InUseError{Name: datastore.FormatPath(disk.Path), Why: "another VM has it"}
			}
		}
		return nil
	}
	if owner := d.ownerOf(disk.Path, v.Ref); owner != "" {
		return &vm.InUseError{Name: datastore.FormatPath(disk.Path), Why: "it is VM " + owner + "'s own, which is on"}
	}
	if !opened(v) {
		return nil
	}
	return d.locked(disk, v.Ref)
}

// vacant says whether a disk can be made at a path.
func (d *Disks) vacant(rel string) error {
	_, err := d.opt.Store.Stat(rel)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = vm.ErrDiskExists
	}
	return &vm.FileError{Path: datastore.FormatPath(rel), Err: err}
}

// Make makes the files of those of planned disks that their VM owns.
func (d *Disks) Make(ctx context.Context, planned []vm.UnitDisk) error {
	for _, disk := range planned {
		if !disk.Owned {
			continue
		}
		if err := d.make(ctx, disk.Disk); err != nil {
			return err
		}
	}
	return nil
}

func (d *Disks) make(ctx context.Context, disk vm.Disk) error {
	if err := d.vacant(disk.Path); err != nil {
		return err
	}
	if err := d.opt.Store.Mkdir(path.Dir(disk.Path), true); err != nil {
		return &vm.FileError{Path: datastore.FormatPath(disk.Path), Err: err}
	}
	err := d.opt.Files.CreateDisk(ctx, d.opt.Store.HostPath(disk.Path), d.opt.Store.HostPath(disk.Parent))
	if err != nil {
		return fmt.Errorf("cannot make disk %s: %w", datastore.FormatPath(disk.Path), err)
	}
	return nil
}

// HostPath is the path on this host of the disk in the VM's root slot, or "".
func (d *Disks) HostPath(v *vm.VM) string {
	if v.Disk == nil {
		return ""
	}
	return d.opt.Store.HostPath(v.Disk.Path)
}

// ParentPath is the path on this host of what the disk in the VM's root slot must be a delta of, or "".
func (d *Disks) ParentPath(v *vm.VM) string {
	if v.Disk == nil {
		return ""
	}
	return d.parentPath(v.Disk)
}

// parentPath is the path on this host of what a disk must be a delta of: it is known of one that a VM has made. Such a disk lies where its VM's
// machine can write, so its header proves nothing.
func (d *Disks) parentPath(disk *vm.Disk) string {
	if !disk.Owned || disk.Parent == "" {
		return ""
	}
	return d.opt.Store.HostPath(disk.Parent)
}

// DataDisks are the VM's data disks as its machine has them.
func (d *Disks) DataDisks(v *vm.VM) (all []vm.DataDisk) {
	for _, disk := range v.DataDisks {
		all = append(all, d.dataDisk(&disk))
	}
	return all
}

func (d *Disks) dataDisk(disk *vm.UnitDisk) vm.DataDisk {
	return vm.DataDisk{Unit: disk.Unit, Path: d.opt.Store.HostPath(disk.Path), Parent: d.parentPath(&disk.Disk), ReadOnly: disk.ReadOnly}
}

// Open records that a VM's machine is about to have its disks open, unless another's keeps it from that.
func (d *Disks) Open(e *inventory.Entry, edit func(*vm.VM)) error {
	v := e.VM()
	d.claims.Lock()
	defer d.claims.Unlock()
	for disk := range all(v) {
		if err := d.locked(&disk, v.Ref); err != nil {
			return err
		}
	}
	return e.Change(inventory.Written, edit)
}

// Check says which of a VM's disks is missing or cannot be used.
func (d *Disks) Check(ctx context.Context, v *vm.VM) error {
	if v.Disk != nil {
		if _, err := vm.HostFile(d.opt.Store, v.Disk.Path); err != nil {
			return err
		}
	}
	for _, disk := range v.DataDisks {
		if _, err := d.inspect(ctx, disk.Path); err != nil {
			return fmt.Errorf("data disk %d: %w", disk.Unit, err)
		}
	}
	return nil
}

// put gives a VM disks, by their units.
func put(v *vm.VM, disks []vm.UnitDisk) {
	for _, disk := range disks {
		if disk.Unit == vm.RootSlot {
			root := disk.Disk
			v.Disk = &root
			continue
		}
		v.DataDisks = append(v.DataDisks, disk)
	}
	slices.SortFunc(v.DataDisks, func(a, b vm.UnitDisk) int { return a.Unit - b.Unit })
}

// drop takes disks from a VM.
func drop(v *vm.VM, disks []vm.UnitDisk) {
	for _, disk := range disks {
		if disk.Unit == vm.RootSlot {
			v.Disk = nil
			continue
		}
		v.DataDisks = slices.DeleteFunc(v.DataDisks, func(d vm.UnitDisk) bool { return d.Unit == disk.Unit })
	}
}
