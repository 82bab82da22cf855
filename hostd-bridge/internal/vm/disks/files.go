package disks

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/inventory"
)

// CreateDisk makes a blank disk at a path in the datastore that belongs to no VM.
func (d *Disks) CreateDisk(ctx context.Context, rel string) error {
	return d.make(ctx, vm.Disk{Path: rel, Parent: d.opt.Blank})
}

// CopyDisk makes a copy of a disk that is no delta. It is there whole or not at all. force replaces a file that nothing needs.
func (d *Disks) CopyDisk(ctx context.Context, from, to string, force bool) error {
	name := datastore.FormatPath(from)
	info, err := d.inspect(ctx, from)
	if err != nil {
		return err
	}
	if info.Parent != "" {
		return &vm.ArgumentError{Property: "sourceName", Why: name + " is a delta of " + datastore.FormatPath(d.opt.Store.Rel(info.Parent)) + ": only a whole disk can be copied"}
	}
	if err := d.replaceable(ctx, to, force); err != nil {
		return err
	}
	before, err := d.still(from)
	if err != nil {
		return err
	}
	return d.opt.Store.CopyChecked(ctx, from, to, force, func() error {
		after, err := d.still(from)
		if err == nil && !after.Equal(before) {
			err = &vm.InUseError{Name: name, Why: "it was written to while it was copied"}
		}
		return err
	})
}

// still returns when a disk that no machine writes to has changed last.
func (d *Disks) still(rel string) (time.Time, error) {
	d.claims.Lock()
	err := d.locked(&vm.UnitDisk{Disk: vm.Disk{Path: rel}, ReadOnly: true}, "")
	d.claims.Unlock()
	if err != nil {
		return time.Time{}, err
	}
	info, err := d.opt.Store.Stat(rel)
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// replaceable says whether a file can be put at a path.
func (d *Disks) replaceable(ctx context.Context, rel string, force bool) error {
	err := d.vacant(rel)
	if force && errors.Is(err, vm.ErrDiskExists) {
		return d.free(ctx, rel)
	}
	return err
}

// free says what needs the file at a path, in the inventory or by its header.
func (d *Disks) free(ctx context.Context, rel string) error {
	if err := d.unused(rel); err != nil {
		return err
	}
	delta, err := d.deltaFile(ctx, rel)
	if err == nil && delta != "" {
		err = &vm.InUseError{Name: datastore.FormatPath(rel), Why: delta + " is a delta of it"}
	}
	return err
}

func (d *Disks) unused(rel string) error {
	if user := d.UserOf(rel); user != "" {
		return &vm.InUseError{Name: datastore.FormatPath(rel), Why: "VM " + user + " needs it"}
	}
	return nil
}

// DeleteDisk removes a disk that no VM has in its configuration, and that no other is a delta of.
func (d *Disks) DeleteDisk(ctx context.Context, rel string) error {
	if _, err := vm.HostFile(d.opt.Store, rel); err != nil {
		return err
	}
	if err := d.free(ctx, rel); err != nil {
		return err
	}
	return d.remove(ctx, rel)
}

// RemoveFile removes a file or directory that no VM needs.
func (d *Disks) RemoveFile(ctx context.Context, rel string) error {
	if err := d.unused(rel); err != nil {
		return err
	}
	return d.remove(ctx, rel)
}

// remove removes a file or directory, and what was kept for it.
func (d *Disks) remove(ctx context.Context, rel string) error {
	parent, err := d.parent(ctx, rel)
	if err != nil {
		parent = "" // no disk, or none that can be read: it goes all the same
	}
	d.claims.Lock()
	err = d.unused(rel) // since it was looked at last
	if err == nil {
		err = d.opt.Store.Remove(rel)
	}
	d.claims.Unlock()
	if err != nil {
		return err
	}
	return d.prune(ctx, parent)
}

// MoveDisk gives a disk that nothing needs another path. One that is a delta stays where it is: it names its parent relative to
// its directory.
func (d *Disks) MoveDisk(ctx context.Context, from, to string, force bool) error {
	info, err := d.inspect(ctx, from)
	if err != nil {
		return err
	}
	if info.Parent != "" {
		return &vm.ArgumentError{Property: "sourceName", Why: datastore.FormatPath(from) + " is a delta of " + datastore.FormatPath(d.opt.Store.Rel(info.Parent)) + ", and stays where it is"}
	}
	if err := errors.Join(d.free(ctx, from), d.replaceable(ctx, to, force)); err != nil {
		return err
	}
	d.claims.Lock()
	defer d.claims.Unlock()
	if err := d.unused(from); err != nil {
		return err
	}
	if err := d.opt.Store.Mkdir(path.Dir(to), true); err != nil {
		return err
	}
	if err := d.opt.Store.Move(from, to, force); err != nil {
		return err
	}
	return errors.Join(d.opt.Store.Sync(path.Dir(from)), d.opt.Store.Sync(path.Dir(to)))
}

// MoveFile gives a file or directory that no VM needs another path. What is below hostapi.VolumesDir stays there while it is a delta of a kept
// disk, which is known by that.
func (d *Disks) MoveFile(ctx context.Context, from, to string, force bool) error {
	if err := d.unused(from); err != nil {
		return err
	}
	if below(from, hostapi.VolumesDir) {
		info, err := d.opt.Store.Stat(from)
		if err != nil {
			return err
		}
		if info.IsDir() {
			return &vm.InUseError{Name: datastore.FormatPath(from), Why: "it is the place of disks that are known by it"}
		}
		if parent, err := d.parent(ctx, from); err == nil && isKept(parent) {
			return &vm.InUseError{Name: datastore.FormatPath(from), Why: "it is a delta of a disk that was kept for a fork"}
		}
	}
	return d.opt.Store.Move(from, to, force)
}

// CopyFile copies a file. That of a disk which is a delta of a kept one goes to no place where nobody would know that it needs that.
func (d *Disks) CopyFile(ctx context.Context, from, to string, force bool) error {
	if parent, err := d.parent(ctx, from); err == nil && isKept(parent) && !below(to, hostapi.VolumesDir) {
		return &vm.InUseError{Name: datastore.FormatPath(from), Why: "it is a delta of a disk that was kept for a fork, and no use elsewhere"}
	}
	return d.opt.Store.Copy(from, to, force)
}

// ExtendDisk gives a disk that no machine has open a larger virtual size. That it has already is no error.
func (d *Disks) ExtendDisk(ctx context.Context, rel string, bytes int64) error {
	d.claims.Lock()
	defer d.claims.Unlock()
	name := datastore.FormatPath(rel)
	info, err := d.inspect(ctx, rel)
	switch {
	case err != nil:
		return err
	case bytes == info.VirtualBytes:
		return nil
	case bytes < info.VirtualBytes || bytes > hostapi.MaxDiskBytes:
		return &vm.ArgumentError{Property: "newCapacityKb", Why: fmt.Sprintf("%s has %d KiB and can have %d at most, never less than it has", name, info.VirtualBytes>>10, hostapi.MaxDiskBytes>>10)}
	}
	if err := d.extensible(ctx, rel); err != nil {
		return err
	}
	if err := d.opt.Files.GrowDisk(ctx, d.opt.Store.HostPath(rel), bytes); err != nil {
		return &vm.FileError{Path: name, Err: err}
	}
	for _, e := range d.opt.Inventory.Entries() {
		if disk := has(e.VM(), rel); disk == nil || disk.Unit == vm.RootSlot {
			continue
		}
		err = errors.Join(err, e.Change(inventory.Written, func(v *vm.VM) {
			if disk := has(v, rel); disk != nil && v.DataDisk(disk.Unit) != nil {
				v.DataDisk(disk.Unit).Bytes = bytes
			}
		}))
	}
	return err
}

// extensible says why a disk cannot be made larger now. The caller holds claims.
func (d *Disks) extensible(ctx context.Context, rel string) error {
	name := datastore.FormatPath(rel)
	if isKept(rel) {
		return &vm.InUseError{Name: name, Why: "it is of forks"}
	}
	if owner := d.rootOf(rel); owner != "" {
		return &vm.InUseError{Name: name, Why: fmt.Sprintf("it is in the root slot of VM %s, and those have %d GiB", owner, hostapi.DiskBytes>>30)}
	}
	if err := d.locked(&vm.UnitDisk{Disk: vm.Disk{Path: rel}}, ""); err != nil {
		return err
	}
	delta, err := d.deltaOf(ctx, rel)
	if err == nil && delta != "" {
		err = &vm.InUseError{Name: name, Why: delta + " is a delta of it"}
	}
	return err
}

// rootOf returns the name of a VM that has the disk in its root slot, or "".
func (d *Disks) rootOf(rel string) string {
	for _, v := range d.opt.Inventory.ListAll() {
		if disk := has(v, rel); disk != nil && disk.Unit == vm.RootSlot {
			return v.Name
		}
	}
	return ""
}

// Chain returns the datastore paths of the files that a disk consists of, its own first.
func (d *Disks) Chain(ctx context.Context, rel string) ([]string, error) {
	if _, err := d.inspect(ctx, rel); err != nil {
		return nil, err
	}
	files := []string{rel}
	for len(files) < maxChain && rel != d.opt.Blank {
		parent, err := d.parent(ctx, rel)
		if err != nil {
			return nil, err
		}
		if parent == "" {
			break
		}
		files, rel = append(files, parent), parent
	}
	return files, nil
}
