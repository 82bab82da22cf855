package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
)

// DiskChange is a change of a VM's root slot. Paths are in the datastore.
type DiskChange struct {
	Remove bool   // empty the slot; else fill it
	Path   string // of the disk; with Create it may be empty: "<home>/<name>.vmdk"
	Parent string // with Create: what the new disk is a delta of; empty: the blank disk
	Create bool   // make the disk's file
	Drop   bool   // with Remove: delete the disk's file
}

// planDisk says what the slot of v will hold after the change c, or why it cannot be.
func (i *Inventory) planDisk(v *VM, c *DiskChange) (*Disk, error) {
	if v.Disk != nil {
		return nil, &DeviceError{Why: "the root slot holds " + datastore.FormatPath(v.Disk.Path) + ": remove it first"}
	}
	d := &Disk{Path: c.Path, Own: c.Create, Parent: c.Parent}
	if !c.Create {
		if d.Path == "" {
			return nil, &DeviceError{Why: "no file is named and none is to be created"}
		}
		if user := i.userOf(d.Path, v.Ref); user != "" {
			return nil, &InUseError{Name: datastore.FormatPath(d.Path), Why: "attached to VM " + user}
		}
		_, err := i.existing(d.Path)
		return d, err
	}
	if d.Path == "" {
		d.Path = path.Join(v.Home, v.Name+".vmdk")
	}
	if d.Parent == "" {
		d.Parent = i.opt.Blank
	}
	_, err := i.existing(d.Parent)
	return d, err
}

// noteDisk notes what will be in the root slot of a VM that is being made, so that the next daemon finds what was made of it.
func (i *Inventory) noteDisk(e *entry, c *DiskChange) error {
	d, err := i.planDisk(i.snapshot(e), c)
	if err != nil {
		return err
	}
	return i.claim(e, c, d, func(v *VM) { v.Disk = d })
}

// claim notes that a VM will have the disk d. What is noted is removed when the VM's creation or change is undone, so there
// must be no file yet, and no other VM that is about to make it.
func (i *Inventory) claim(e *entry, c *DiskChange, d *Disk, note func(*VM)) error {
	i.claims.Lock()
	defer i.claims.Unlock()
	if err := i.vacant(c, d); err != nil {
		return err
	}
	i.mu.Lock()
	taken := i.any(func(v *VM) bool {
		return (v.Disk != nil && v.Disk.Path == d.Path) || (v.Pending != nil && v.Pending.Disk != nil && v.Pending.Disk.Path == d.Path)
	})
	i.mu.Unlock()
	if taken {
		return &InUseError{Name: datastore.FormatPath(d.Path), Why: "another VM has it"}
	}
	return i.change(e, noted, note)
}

// vacant says whether a disk can be made where it is planned.
func (i *Inventory) vacant(c *DiskChange, d *Disk) error {
	if !c.Create {
		return nil
	}
	if _, err := i.opt.Store.Stat(d.Path); !errors.Is(err, fs.ErrNotExist) {
		return &FileError{Path: datastore.FormatPath(d.Path), Err: errors.Join(ErrDiskExists, err)}
	}
	return nil
}

// makeDisk makes the file of a planned disk when the change asks for it.
func (i *Inventory) makeDisk(ctx context.Context, c *DiskChange, d *Disk) error {
	if !c.Create {
		return nil
	}
	if err := i.vacant(c, d); err != nil {
		return err
	}
	if err := i.opt.Store.Mkdir(path.Dir(d.Path), true); err != nil {
		return &FileError{Path: datastore.FormatPath(d.Path), Err: err}
	}
	err := i.opt.Disks.CreateDisk(ctx, i.opt.Store.HostPath(d.Path), i.opt.Store.HostPath(d.Parent))
	if err != nil {
		return fmt.Errorf("cannot make disk %s: %w", datastore.FormatPath(d.Path), err)
	}
	return nil
}

// userOf returns the name of a VM other than except that has the disk attached, or "".
func (i *Inventory) userOf(file, except string) string {
	for _, v := range i.List() {
		if v.Ref != except && v.Disk != nil && v.Disk.Path == file {
			return v.Name
		}
	}
	return ""
}

// dependant returns the name of a VM other than except that needs what is at or below the path, or "".
func (i *Inventory) dependant(at, except string) string {
	for _, v := range i.List() {
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
func (i *Inventory) UserOf(rel string) string {
	if user := i.dependant(rel, ""); user != "" || !below(rel, forksDir) {
		return user
	}
	if _, err := i.opt.Store.Stat(rel); err != nil {
		return ""
	}
	return "that is a fork"
}

// attach fills the root slot, also while the VM runs, and then tells the guest. The note lets the next daemon undo it.
func (i *Inventory) attach(ctx context.Context, e *entry, c *DiskChange, tell func() error, rest func(*VM)) error {
	v := i.snapshot(e)
	d, err := i.planDisk(v, c)
	if err != nil {
		return err
	}
	if err := i.claim(e, c, d, func(v *VM) { v.Pending = &Pending{Kind: pendingAttach, Disk: d, Made: c.Create} }); err != nil {
		return err
	}
	if err = i.makeDisk(ctx, c, d); err == nil {
		err = i.plug(ctx, v.Ref, d)
	}
	if err != nil {
		return errors.Join(err, i.undoAttach(e))
	}
	if err = tell(); err == nil {
		err = i.change(e, journaled, func(v *VM) {
			v.Disk, v.Pending = d, nil
			rest(v)
		})
	}
	if err != nil {
		if m, off := i.Machine(v.Ref); off == nil {
			i.eject(context.WithoutCancel(ctx), v, m)
		}
		return errors.Join(err, i.undoAttach(e))
	}
	return nil
}

// plug puts a disk into the machine, if there is one.
func (i *Inventory) plug(ctx context.Context, ref string, d *Disk) error {
	m, err := i.Live(ref)
	if err != nil {
		return nil // off: the disk is there at the next power-on
	}
	if err := m.AttachDisk(ctx, i.opt.Store.HostPath(d.Path)); err != nil {
		return fmt.Errorf("cannot attach disk %s: %w", datastore.FormatPath(d.Path), err)
	}
	return nil
}

// undoAttach removes the file that a failed attach has made, and its note.
func (i *Inventory) undoAttach(e *entry) error {
	if p := i.snapshot(e).Pending; p.Made {
		if err := i.drop(p.Disk.Path); err != nil {
			return err
		}
	}
	return i.change(e, noted, func(v *VM) { v.Pending = nil })
}

// detach empties the root slot, also while the VM runs. The note lets the next daemon finish it.
func (i *Inventory) detach(ctx context.Context, e *entry, drop bool, rest func(*VM)) error {
	v := i.snapshot(e)
	if v.Disk == nil {
		return &DeviceError{Why: "the root slot is empty"}
	}
	if !drop && kept(v.Disk.Parent) {
		return &DeviceError{Why: datastore.FormatPath(v.Disk.Path) + " is of a fork and no use without its parents, which go with the VM: remove its file too"}
	}
	if drop {
		if user := i.dependant(v.Disk.Path, v.Ref); user != "" {
			return &InUseError{Name: datastore.FormatPath(v.Disk.Path), Why: "a disk of VM " + user + " is a delta of it"}
		}
	}
	if err := i.change(e, noted, func(v *VM) {
		v.Pending = &Pending{Kind: pendingDetach, Disk: v.Disk, Drop: drop}
	}); err != nil {
		return err
	}
	if m, err := i.Machine(v.Ref); err == nil {
		if err := m.DetachDisk(ctx); err != nil {
			return errors.Join(fmt.Errorf("cannot detach disk %s: %w", datastore.FormatPath(v.Disk.Path), err),
				i.change(e, noted, func(v *VM) { v.Pending = nil }))
		}
	}
	return i.finishDetach(e, rest)
}

func (i *Inventory) finishDetach(e *entry, rest func(*VM)) error {
	p := i.snapshot(e).Pending
	if p.Drop {
		if err := i.drop(p.Disk.Path); err != nil {
			return err
		}
	}
	parent := p.Disk.Parent
	err := i.change(e, journaled, func(v *VM) {
		v.Disk, v.Pending = nil, nil
		rest(v)
	})
	if err != nil || !p.Drop {
		return err
	}
	return i.prune(context.Background(), parent)
}

// drop removes a file that may be gone already.
func (i *Inventory) drop(rel string) error {
	if err := i.opt.Store.Remove(rel); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &FileError{Path: datastore.FormatPath(rel), Err: err}
	}
	return nil
}

// CreateDisk makes a blank disk at a path in the datastore that belongs to no VM.
func (i *Inventory) CreateDisk(ctx context.Context, rel string) error {
	return i.makeDisk(ctx, &DiskChange{Create: true}, &Disk{Path: rel, Parent: i.opt.Blank})
}
