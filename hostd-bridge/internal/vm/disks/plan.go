package disks

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// scsiUnit is the unit number that vSphere keeps for the SCSI controller itself.
const scsiUnit = 7

// maxChain bounds how many files a disk consists of: each takes a descriptor and memory in its machine.
const maxChain = 1000

// plan is what a change of disks comes to. Unit 0 is the root slot.
type plan struct {
	add, remove []vm.UnitDisk
	drop        []string // paths, of those that are removed: their files go too
}

// plan says what a change of disks comes to in v, or why it cannot be.
func (d *Disks) plan(ctx context.Context, v *vm.VM, changes []vm.DiskChange) (plan, error) {
	var p plan
	v = v.Copy()
	for _, c := range changes {
		if c.Remove {
			disk, err := d.removed(v, &c)
			if err != nil {
				return p, err
			}
			if slices.ContainsFunc(p.remove, func(r vm.UnitDisk) bool { return r.Unit == disk.Unit }) {
				return p, &vm.DeviceError{Why: fmt.Sprintf("disk %d is removed twice", disk.Unit)}
			}
			p.remove = append(p.remove, disk)
			if c.Drop {
				p.drop = append(p.drop, disk.Path)
			}
			continue
		}
		disk, err := d.added(ctx, v, &c)
		if err != nil {
			return p, err
		}
		p.add = append(p.add, disk)
		put(v, []vm.UnitDisk{disk}) // the next one gets another unit
	}
	return p, nil
}

// removed returns the disk that a change takes from v.
func (d *Disks) removed(v *vm.VM, c *vm.DiskChange) (vm.UnitDisk, error) {
	var disk vm.UnitDisk
	if c.Unit == vm.RootSlot {
		if v.Disk == nil {
			return disk, &vm.DeviceError{Why: "the root slot is empty"}
		}
		disk.Disk = *v.Disk
	} else {
		has := v.DataDisk(c.Unit)
		if has == nil {
			return disk, &vm.DeviceError{Why: fmt.Sprintf("no disk has the key %d", hostapi.FirstDiskKey+c.Unit)}
		}
		disk = *has
	}
	name := datastore.FormatPath(disk.Path)
	switch {
	case !c.Drop && (disk.Owned || disk.Unit == vm.RootSlot) && isKept(disk.Parent):
		return disk, &vm.DeviceError{Why: name + " is of a fork and no use without its parents, which go with the VM: remove its file too"}
	case c.Drop && disk.Unit != vm.RootSlot && !disk.Owned:
		return disk, &vm.DeviceError{Why: name + " was given to VM " + v.Name + " and is not destroyed with it: remove it without its file, which DeleteVirtualDisk_Task deletes"}
	case c.Drop:
		if user := d.Dependant(disk.Path, v.Ref); user != "" {
			return disk, &vm.InUseError{Name: name, Why: "a disk of VM " + user + " is a delta of it"}
		}
	}
	return disk, nil
}

// added returns the disk that a change gives to v.
func (d *Disks) added(ctx context.Context, v *vm.VM, c *vm.DiskChange) (vm.UnitDisk, error) {
	disk := vm.UnitDisk{Disk: vm.Disk{Path: c.Path, Parent: c.Parent, Owned: c.Create}, ReadOnly: c.ReadOnly}
	var err error
	if disk.Unit, err = freeUnit(v, c.Unit); err != nil {
		return disk, err
	}
	switch {
	case !c.Create && disk.Path == "":
		return disk, &vm.DeviceError{Why: "no file is named and none is to be created"}
	case !c.Create:
		return disk, d.given(ctx, v, &disk)
	case disk.Path == "" && disk.Unit == vm.RootSlot:
		disk.Path = path.Join(v.Home, v.Name+".vmdk")
	case disk.Path == "":
		disk.Path = path.Join(v.Home, hostapi.VolumeDisk(disk.Unit))
	}
	if disk.Parent == "" {
		disk.Parent = d.opt.Blank
	}
	if has(v, disk.Path) != nil {
		return disk, &vm.DeviceError{Why: datastore.FormatPath(disk.Path) + " is a disk of VM " + v.Name + " already"}
	}
	host, err := vm.HostFile(d.opt.Store, disk.Parent)
	if err != nil || disk.Unit == vm.RootSlot {
		return disk, err
	}
	info, err := d.opt.Files.DiskInfo(ctx, host)
	if err != nil {
		return disk, &vm.FileError{Path: datastore.FormatPath(disk.Parent), Err: err}
	}
	disk.Bytes = info.VirtualBytes
	return disk, nil
}

// freeUnit returns the unit at which v gets a disk.
func freeUnit(v *vm.VM, unit int) (int, error) {
	free := func(unit int) bool { return unit != scsiUnit && v.DataDisk(unit) == nil }
	switch {
	case unit == vm.AnyUnit && v.Disk == nil:
		return vm.RootSlot, nil
	case unit == vm.AnyUnit:
		for unit = 1; unit <= maxUnit; unit++ {
			if free(unit) {
				return unit, nil
			}
		}
		return 0, &vm.DeviceError{Why: fmt.Sprintf("VM %s has %d data disks, more is not possible", v.Name, hostapi.MaxDataDisks)}
	case unit == vm.RootSlot && v.Disk != nil:
		return 0, &vm.DeviceError{Why: "the root slot holds " + datastore.FormatPath(v.Disk.Path) + ": remove it first"}
	case unit == vm.RootSlot:
		return unit, nil
	case unit < 1 || unit > maxUnit || unit == scsiUnit:
		return 0, &vm.DeviceError{Why: fmt.Sprintf("a disk has unit number 0 to %d, but not %d, which is the controller's", maxUnit, scsiUnit)}
	case !free(unit):
		return 0, &vm.DeviceError{Why: fmt.Sprintf("unit %d holds %s: remove it first", unit, datastore.FormatPath(v.DataDisk(unit).Path))}
	}
	return unit, nil
}

// maxUnit is the last unit number of a SCSI controller.
const maxUnit = hostapi.MaxDataDisks + 1

// given says whether v can have a disk whose file is there, and completes it.
func (d *Disks) given(ctx context.Context, v *vm.VM, disk *vm.UnitDisk) error {
	name := datastore.FormatPath(disk.Path)
	if has(v, disk.Path) != nil {
		return &vm.DeviceError{Why: name + " is a disk of VM " + v.Name + " already"}
	}
	if disk.Unit == vm.RootSlot {
		_, err := vm.HostFile(d.opt.Store, disk.Path)
		return err
	}
	switch {
	case disk.Parent != "":
		return &vm.DeviceError{Why: name + " is there and has the parent that it has: name none"}
	case isKept(disk.Path):
		return &vm.DeviceError{Why: name + " is of forks, and goes with them"}
	}
	if owner := d.ownerOf(disk.Path, v.Ref); owner != "" {
		return &vm.InUseError{Name: name, Why: "it is VM " + owner + "'s own, which is on"}
	}
	info, err := d.inspect(ctx, disk.Path)
	if err != nil {
		return err
	}
	disk.Bytes = info.VirtualBytes
	if disk.ReadOnly {
		return nil
	}
	delta, err := d.deltaOf(ctx, disk.Path)
	if err == nil && delta != "" {
		err = &vm.InUseError{Name: name, Why: delta + " is a delta of it, and needs it as it is"}
	}
	return err
}

// deltaOf names a disk that is a delta of the one at rel, or returns "". Those of the volumes' directory are known to be none of others
// than VMs have.
func (d *Disks) deltaOf(ctx context.Context, rel string) (string, error) {
	if rel == d.opt.Blank {
		return "every new disk", nil
	}
	if user := d.deltaUser(rel); user != "" {
		return "a disk of VM " + user, nil
	}
	if below(rel, hostapi.VolumesDir) {
		return "", nil
	}
	return d.deltaFile(ctx, rel)
}

// inspect reads the header of the disk at rel and those of all that it is a delta of, which must be in the datastore. It returns what its own
// says.
func (d *Disks) inspect(ctx context.Context, rel string) (info vm.DiskInfo, err error) {
	for n := 0; n == 0 || rel != d.opt.Blank; n++ {
		name := datastore.FormatPath(rel)
		if n == maxChain {
			return info, &vm.FileError{Path: name, Err: fmt.Errorf("the disk consists of more than %d files", maxChain)}
		}
		host, err := vm.HostFile(d.opt.Store, rel)
		if err != nil {
			return info, err
		}
		next, err := d.opt.Files.DiskInfo(ctx, host)
		if err != nil {
			return info, &vm.FileError{Path: name, Err: err}
		}
		if n == 0 {
			info = next
		}
		if next.Parent == "" {
			return info, nil
		}
		if rel = d.opt.Store.Rel(next.Parent); !filepath.IsLocal(rel) {
			return info, &vm.FileError{Path: name, Err: errors.New("it is a delta of a file that is not in the datastore")}
		}
	}
	return info, nil
}
