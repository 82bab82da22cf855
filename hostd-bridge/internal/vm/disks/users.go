package disks

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"path"
	"strings"

	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// all are the disks that a VM has or, by what is in flight, may have in its machine. Unit 0 is the root slot. They are looked at for every VM of
// the host whenever a disk is made, so nothing is allocated.
func all(v *vm.VM) iter.Seq[vm.UnitDisk] {
	return func(yield func(vm.UnitDisk) bool) {
		if v.Disk != nil && !yield(vm.UnitDisk{Disk: *v.Disk}) {
			return
		}
		for n := range v.DataDisks {
			if !yield(v.DataDisks[n]) {
				return
			}
		}
		if v.InFlight == nil {
			return
		}
		if o := v.InFlight; o.Disk != nil && !yield(vm.UnitDisk{Disk: *o.Disk}) {
			return
		}
		for n := range v.InFlight.Data {
			if !yield(v.InFlight.Data[n]) {
				return
			}
		}
	}
}

// has returns the VM's disk with a path, or nil.
func has(v *vm.VM, rel string) *vm.UnitDisk {
	for disk := range all(v) {
		if disk.Path == rel {
			found := disk
			return &found
		}
	}
	return nil
}

// opened says whether a VM's machine has its disks open, or is about to.
func opened(v *vm.VM) bool {
	return v.Power == vm.PoweredOn || (v.InFlight != nil && (v.InFlight.Kind == vm.OpStart || v.InFlight.Kind == vm.OpClone))
}

// locked says which machine keeps that of the VM ref from opening a disk. The caller holds claims.
func (d *Disks) locked(disk *vm.UnitDisk, ref string) error {
	for _, v := range d.opt.Inventory.ListAll() {
		if v.Ref == ref || !opened(v) {
			continue
		}
		for other := range all(v) {
			if other.Path == disk.Path && !(other.ReadOnly && disk.ReadOnly) {
				return &vm.LockedError{Path: datastore.FormatPath(disk.Path), Name: v.Name, Writes: !other.ReadOnly}
			}
		}
	}
	return nil
}

// ownerOf returns the name of a VM that is on, other than except, to which the disk at rel belongs: that has it in its root slot, or has made
// it. One that is off lends it.
func (d *Disks) ownerOf(rel, except string) string {
	for _, v := range d.opt.Inventory.ListAll() {
		if !opened(v) {
			continue
		}
		if disk := has(v, rel); v.Ref != except && disk != nil && (disk.Owned || disk.Unit == vm.RootSlot) {
			return v.Name
		}
	}
	return ""
}

// deltaUser returns the name of a VM with a disk that is known to be a delta of the one at rel, or "".
func (d *Disks) deltaUser(rel string) string {
	for _, v := range d.opt.Inventory.ListAll() {
		for disk := range all(v) {
			if disk.Parent == rel {
				return v.Name
			}
		}
	}
	return ""
}

// Dependant returns the name of a VM other than except that needs what is at or below the path, or "".
func (d *Disks) Dependant(at, except string) string {
	for _, v := range d.opt.Inventory.ListAll() {
		if v.Ref == except {
			continue
		}
		if below(v.Home, at) {
			return v.Name
		}
		for disk := range all(v) {
			if below(disk.Path, at) || below(disk.Parent, at) {
				return v.Name
			}
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

// deltaFile returns the datastore path of a disk that by its header is a delta of the one at rel, or "". It looks at every disk of the
// datastore, some ten microseconds for each.
func (d *Disks) deltaFile(ctx context.Context, rel string) (string, error) {
	found := ""
	var look func(dir string) error
	look = func(dir string) error {
		infos, err := d.opt.Store.List(dir)
		if errors.Is(err, fs.ErrNotExist) { // gone meanwhile
			return nil
		}
		for _, info := range infos {
			at := path.Join(dir, info.Name())
			switch {
			case found != "" || ctx.Err() != nil:
			case info.IsDir():
				err = errors.Join(err, look(at))
			case info.Mode().IsRegular() && strings.HasSuffix(at, ".vmdk"):
				if parent, err := d.parent(ctx, at); err == nil && parent == rel { // what has no header is a delta of nothing
					found = datastore.FormatPath(at)
				}
			}
		}
		return err
	}
	err := look(".")
	return found, errors.Join(err, ctx.Err())
}
