// Package disks changes what is in the root slots of VMs, and keeps their disks as they were at fork points.
package disks

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
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

// Disks changes root slots.
type Disks struct {
	opt    Options
	forks  sync.Mutex // see inventory, Lock order
	claims sync.Mutex // see there
}

// New returns the disks of a host.
func New(opt Options) *Disks { return &Disks{opt: opt} }

// plan says what the slot of v will hold after the change c, or why it cannot be.
func (d *Disks) plan(v *vm.VM, c *vm.DiskChange) (*vm.Disk, error) {
	if v.Disk != nil {
		return nil, &vm.DeviceError{Why: "the root slot holds " + datastore.FormatPath(v.Disk.Path) + ": remove it first"}
	}
	disk := &vm.Disk{Path: c.Path, Owned: c.Create, Parent: c.Parent}
	if !c.Create {
		if disk.Path == "" {
			return nil, &vm.DeviceError{Why: "no file is named and none is to be created"}
		}
		if user := d.userOf(disk.Path, v.Ref); user != "" {
			return nil, &vm.InUseError{Name: datastore.FormatPath(disk.Path), Why: "attached to VM " + user}
		}
		_, err := vm.HostFile(d.opt.Store, disk.Path)
		return disk, err
	}
	if disk.Path == "" {
		disk.Path = path.Join(v.Home, v.Name+".vmdk")
	}
	if disk.Parent == "" {
		disk.Parent = d.opt.Blank
	}
	_, err := vm.HostFile(d.opt.Store, disk.Parent)
	return disk, err
}

// Plan records what will be in the root slot of a VM that is being made, so that the next daemon finds what was made of it.
func (d *Disks) Plan(e *inventory.Entry, c *vm.DiskChange) error {
	disk, err := d.plan(e.VM(), c)
	if err != nil {
		return err
	}
	return d.claim(e, c, disk, func(v *vm.VM) { v.Disk = disk })
}

// claim records that a VM will have the disk. What is recorded is removed when the VM's creation or change is rolled back, so there
// must be no file yet, and no other VM that is about to make it.
func (d *Disks) claim(e *inventory.Entry, c *vm.DiskChange, disk *vm.Disk, edit func(*vm.VM)) error {
	d.claims.Lock()
	defer d.claims.Unlock()
	if err := d.vacant(c, disk); err != nil {
		return err
	}
	for _, v := range d.opt.Inventory.ListAll() {
		if (v.Disk != nil && v.Disk.Path == disk.Path) || (v.InFlight != nil && v.InFlight.Disk != nil && v.InFlight.Disk.Path == disk.Path) {
			return &vm.InUseError{Name: datastore.FormatPath(disk.Path), Why: "another VM has it"}
		}
	}
	return e.Change(inventory.Written, edit)
}

// vacant says whether a disk can be made where it is planned.
func (d *Disks) vacant(c *vm.DiskChange, disk *vm.Disk) error {
	if !c.Create {
		return nil
	}
	_, err := d.opt.Store.Stat(disk.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = vm.ErrDiskExists
	}
	return &vm.FileError{Path: datastore.FormatPath(disk.Path), Err: err}
}

// Make makes the file of a planned disk when the change asks for it.
func (d *Disks) Make(ctx context.Context, c *vm.DiskChange, disk *vm.Disk) error {
	if !c.Create {
		return nil
	}
	if err := d.vacant(c, disk); err != nil {
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

// CreateDisk makes a blank disk at a path in the datastore that belongs to no VM.
func (d *Disks) CreateDisk(ctx context.Context, rel string) error {
	return d.Make(ctx, &vm.DiskChange{Create: true}, &vm.Disk{Path: rel, Parent: d.opt.Blank})
}

// HostPath is the path on this host of the VM's disk, or "".
func (d *Disks) HostPath(v *vm.VM) string {
	if v.Disk == nil {
		return ""
	}
	return d.opt.Store.HostPath(v.Disk.Path)
}

// Attach fills the root slot, also while the VM runs, then tells the guest, and with one record does the rest of the change too. What
// is recorded at the beginning lets the next daemon roll it back.
func (d *Disks) Attach(ctx context.Context, e *inventory.Entry, c *vm.DiskChange, tell func() error, rest func(*vm.VM)) error {
	v := e.VM()
	disk, err := d.plan(v, c)
	if err != nil {
		return err
	}
	operation := &vm.Operation{Kind: vm.OpAttach, Disk: disk, MakeFile: c.Create}
	if err := d.claim(e, c, disk, func(v *vm.VM) { v.InFlight = operation }); err != nil {
		return err
	}
	if err = d.Make(ctx, c, disk); err == nil {
		err = d.plug(ctx, v.Ref, disk)
	}
	if err != nil {
		return errors.Join(err, d.rollBackAttach(e))
	}
	if err = tell(); err == nil {
		err = e.Change(inventory.Synced, func(v *vm.VM) {
			v.Disk, v.InFlight = disk, nil
			rest(v)
		})
	}
	if err != nil {
		return errors.Join(err, d.RollBackAttach(context.WithoutCancel(ctx), e))
	}
	return nil
}

// plug puts a disk into the machine, if there is one.
func (d *Disks) plug(ctx context.Context, ref string, disk *vm.Disk) error {
	m, err := d.opt.Inventory.Live(ref)
	if err != nil {
		return nil // off: the disk is there at the next power-on
	}
	if err := m.AttachDisk(ctx, d.opt.Store.HostPath(disk.Path)); err != nil {
		return fmt.Errorf("cannot attach disk %s: %w", datastore.FormatPath(disk.Path), err)
	}
	return nil
}

// RollBackAttach undoes an attach whose disk may be in the machine.
func (d *Disks) RollBackAttach(ctx context.Context, e *inventory.Entry) error {
	d.empty(ctx, e)
	return d.rollBackAttach(e)
}

// rollBackAttach removes the file that a failed attach has made, and what is recorded of it.
func (d *Disks) rollBackAttach(e *inventory.Entry) error {
	if o := e.VM().InFlight; o.MakeFile {
		if err := vm.RemoveFile(d.opt.Store, o.Disk.Path); err != nil {
			return err
		}
	}
	return e.Change(inventory.Written, func(v *vm.VM) { v.InFlight = nil })
}

// empty empties the machine's root slot, if there is a machine, after a half-done change. The slot may be empty already, and the guest may
// hold the disk: then its file stays open in the machine until that ends, which does no harm.
func (d *Disks) empty(ctx context.Context, e *inventory.Entry) {
	m, _ := e.Machine()
	if m == nil {
		return
	}
	if err := m.DetachDisk(ctx); err != nil {
		d.opt.Log.Warn("cannot empty the root slot after an interrupted change", "vm", e.VM().Name, "err", err)
	}
}

// Detach empties the root slot, also while the VM runs, and with one record does the rest of the change too. What is recorded at the
// beginning lets the next daemon finish it.
func (d *Disks) Detach(ctx context.Context, e *inventory.Entry, drop bool, rest func(*vm.VM)) error {
	v := e.VM()
	if v.Disk == nil {
		return &vm.DeviceError{Why: "the root slot is empty"}
	}
	if !drop && isKept(v.Disk.Parent) {
		return &vm.DeviceError{Why: datastore.FormatPath(v.Disk.Path) + " is of a fork and no use without its parents, which go with the VM: remove its file too"}
	}
	if drop {
		if user := d.Dependant(v.Disk.Path, v.Ref); user != "" {
			return &vm.InUseError{Name: datastore.FormatPath(v.Disk.Path), Why: "a disk of VM " + user + " is a delta of it"}
		}
	}
	if err := e.Change(inventory.Written, func(v *vm.VM) {
		v.InFlight = &vm.Operation{Kind: vm.OpDetach, Disk: v.Disk, DropFile: drop}
	}); err != nil {
		return err
	}
	if m, _ := e.Machine(); m != nil {
		if err := m.DetachDisk(ctx); err != nil {
			return errors.Join(fmt.Errorf("cannot detach disk %s: %w", datastore.FormatPath(v.Disk.Path), err),
				e.Change(inventory.Written, func(v *vm.VM) { v.InFlight = nil }))
		}
	}
	return d.finishDetach(e, rest)
}

// FinishDetach finishes what an earlier daemon has begun.
func (d *Disks) FinishDetach(ctx context.Context, e *inventory.Entry) error {
	d.empty(ctx, e)
	return d.finishDetach(e, func(*vm.VM) {})
}

func (d *Disks) finishDetach(e *inventory.Entry, rest func(*vm.VM)) error {
	o := e.VM().InFlight
	if o.DropFile {
		if err := vm.RemoveFile(d.opt.Store, o.Disk.Path); err != nil {
			return err
		}
	}
	err := e.Change(inventory.Synced, func(v *vm.VM) {
		v.Disk, v.InFlight = nil, nil
		rest(v)
	})
	if err != nil || !o.DropFile {
		return err
	}
	return d.prune(context.Background(), o.Disk.Parent)
}

// userOf returns the name of a VM other than except that has the disk attached, or "".
func (d *Disks) userOf(file, except string) string {
	for _, v := range d.opt.Inventory.List() {
		if v.Ref != except && v.Disk != nil && v.Disk.Path == file {
			return v.Name
		}
	}
	return ""
}

// Dependant returns the name of a VM other than except that needs what is at or below the path, or "".
func (d *Disks) Dependant(at, except string) string {
	for _, v := range d.opt.Inventory.List() {
		if v.Ref == except {
			continue
		}
		if below(v.Home, at) || (v.Disk != nil && (below(v.Disk.Path, at) || below(v.Disk.Parent, at))) {
			return v.Name
		}
	}
	return ""
}

// below says whether the path is dir or in it.
func below(file, dir string) bool {
	return file == dir || (len(file) > len(dir) && file[:len(dir)] == dir && file[len(dir)] == '/')
}

// UserOf returns the name of a VM that needs what is at or below the path in the datastore, or "". Kept disks are there
// as long as something needs them.
func (d *Disks) UserOf(rel string) string {
	if user := d.Dependant(rel, ""); user != "" || !below(rel, vm.ForksDir) {
		return user
	}
	if _, err := d.opt.Store.Stat(rel); err != nil {
		return ""
	}
	return "that is a fork"
}
