package disks

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/inventory"
)

// deltaSuffix ends the name of a delta that is about to take a disk's place.
const deltaSuffix = ".delta"

// isKept says whether a path is that of a kept disk.
func isKept(rel string) bool { return path.Dir(rel) == vm.ForksDir }

// Kept are the disks of a VM as they were at a fork point.
type Kept struct {
	Root string         // empty: it has none
	Data map[int]string // by unit, without those that it only reads
}

// keptAt returns the disks of a VM as they were when it froze, as far as they are kept, and whether others are still to be.
func keptAt(v *vm.VM) (k Kept, missing bool) {
	if v.Disk != nil {
		k.Root, missing = v.Point, v.Point == ""
	}
	for _, disk := range v.DataDisks {
		switch {
		case disk.ReadOnly:
		case disk.Point == "":
			missing = true
		default:
			k.set(disk.Unit, disk.Point)
		}
	}
	return k, missing
}

func (k *Kept) set(unit int, kept string) {
	if unit == vm.RootSlot {
		k.Root = kept
		return
	}
	if k.Data == nil {
		k.Data = map[int]string{}
	}
	k.Data[unit] = kept
}

// Keep keeps the content of a VM's disks as it is now, as files of vm.ForksDir, and puts an empty delta of it in the place of each. Of a VM
// that is frozen each is kept once.
//
// At each moment a disk's path names a whole disk with the same content: a second name of the old file, then a rename
// over the first. So there is nothing to roll back: not after a crash, since the delta says itself what it is a delta of (see mend),
// and not when the fork fails; a machine that has the old file open may go on with it, as long as nothing is forked of it.
func (d *Disks) Keep(ctx context.Context, e *inventory.Entry) (Kept, error) {
	v := e.VM()
	k, missing := keptAt(v)
	if !missing {
		return k, nil
	}
	if err := forkable(v); err != nil {
		return k, err
	}
	d.forks.Lock()
	defer d.forks.Unlock()
	for _, disk := range written(v) {
		if disk.Point != "" {
			continue
		}
		kept, err := d.keep(ctx, e, &disk)
		if err != nil {
			return k, err
		}
		k.set(disk.Unit, kept)
	}
	return k, nil
}

// written are the disks that a VM writes to; unit 0 is the root slot.
func written(v *vm.VM) []vm.UnitDisk {
	var disks []vm.UnitDisk
	if v.Disk != nil {
		disks = append(disks, vm.UnitDisk{Disk: *v.Disk, Point: v.Point})
	}
	for _, disk := range v.DataDisks {
		if !disk.ReadOnly {
			disks = append(disks, disk)
		}
	}
	return disks
}

// forkable says which of a VM's disks cannot be forked. What is kept stays as long as something is known to be a delta of it: a disk that
// a VM has made, or one in the volumes' directory.
func forkable(v *vm.VM) error {
	for _, disk := range written(v) {
		switch {
		case disk.Owned:
		case disk.Unit == vm.RootSlot:
			return &vm.DeviceError{Why: datastore.FormatPath(disk.Path) + " was given to VM " + v.Name + ": only a disk that a VM has made itself can be forked"}
		case !below(disk.Path, hostapi.VolumesDir):
			return &vm.DeviceError{Why: fmt.Sprintf("%s was given to VM %s and is not in %s: only such a disk, and one that a VM has made itself, can be forked",
				datastore.FormatPath(disk.Path), v.Name, datastore.FormatPath(hostapi.VolumesDir))}
		}
	}
	return nil
}

// keep keeps a disk. The caller holds forks.
func (d *Disks) keep(ctx context.Context, e *inventory.Entry, disk *vm.UnitDisk) (string, error) {
	v := e.VM()
	kept := path.Join(vm.ForksDir, fmt.Sprintf("%s-%d.vmdk", v.Ref, v.Forks+1))
	if err := e.Change(inventory.Written, func(v *vm.VM) { v.Forks++ }); err != nil {
		return "", err
	}
	if err := d.link(ctx, disk.Path, kept); err != nil {
		return "", fmt.Errorf("cannot keep disk %s for the fork: %w", datastore.FormatPath(disk.Path), err)
	}
	return kept, e.Change(inventory.Written, func(v *vm.VM) {
		setParent(v, disk.Unit, kept)
		switch {
		case !v.Frozen:
		case disk.Unit == vm.RootSlot:
			v.Point = kept
		default:
			v.DataDisk(disk.Unit).Point = kept
		}
	})
}

// setParent says what a disk is a delta of, if it is owned.
func setParent(v *vm.VM, unit int, parent string) {
	if unit == vm.RootSlot {
		v.Disk = &vm.Disk{Path: v.Disk.Path, Parent: parent, Owned: true}
		return
	}
	if disk := v.DataDisk(unit); disk.Owned {
		disk.Parent = parent
	}
}

// link gives the disk at rel the name kept, and puts a delta of it in its place.
func (d *Disks) link(ctx context.Context, rel, kept string) error {
	if err := d.opt.Store.Mkdir(vm.ForksDir, true); err != nil {
		return err
	}
	if err := d.opt.Store.Link(rel, kept); err != nil {
		return err
	}
	if err := d.replace(ctx, rel, kept); err != nil {
		return errors.Join(err, vm.RemoveFile(d.opt.Store, kept))
	}
	return nil
}

// replace puts a delta of the file kept in the place of the disk at rel, of which kept is another name.
func (d *Disks) replace(ctx context.Context, rel, kept string) error {
	store := d.opt.Store
	before, err := d.opt.Files.DiskParent(ctx, store.HostPath(rel))
	if err != nil {
		return err
	}
	after, err := d.opt.Files.DiskParent(ctx, store.HostPath(kept))
	if err != nil {
		return err
	}
	if after != before {
		return &vm.DeviceError{Why: "its parent is not found from another directory: a disk that is forked lies in a directory of the datastore's root, and its parent in another"}
	}
	delta := rel + deltaSuffix
	if err := vm.RemoveFile(store, delta); err != nil { // of a crash
		return err
	}
	if err := d.opt.Files.CreateDisk(ctx, store.HostPath(delta), store.HostPath(kept)); err != nil {
		return err
	}
	err = store.Sync(delta) // before the rename: a crash of the host must not leave an empty disk
	if err == nil {
		err = store.Move(delta, rel, true)
	}
	if err == nil && below(rel, hostapi.VolumesDir) { // no VM's home, which is looked after: the name is all that is known of it
		return store.Sync(path.Dir(rel))
	}
	if err != nil {
		return errors.Join(err, vm.RemoveFile(store, delta))
	}
	return nil
}

// Deltas are the disks in which the machine of a VM goes on when its present ones are kept.
func (d *Disks) Deltas(v *vm.VM) vm.NewDisks {
	to := vm.NewDisks{Root: d.HostPath(v)}
	for _, disk := range v.DataDisks {
		if disk.ReadOnly {
			continue
		}
		if to.Data == nil {
			to.Data = map[int]string{}
		}
		to.Data[disk.Unit] = d.opt.Store.HostPath(disk.Path)
	}
	return to
}

// PlanChild says what disks a child of src has, and records it: deltas of what src's were, which are kept, those that src only reads, and
// what changes add. It returns them for Make.
func (d *Disks) PlanChild(ctx context.Context, e *inventory.Entry, src *vm.VM, changes []vm.DiskChange, kept Kept) ([]vm.UnitDisk, error) {
	if kept.Root == "" && len(src.DataDisks) == 0 && len(changes) == 0 {
		return nil, nil
	}
	child := e.VM().Copy()
	disks := inherited(child.Home, src, kept)
	put(child, disks)
	p, err := d.plan(ctx, child, changes)
	if err != nil {
		return nil, err
	}
	disks = append(disks, p.add...)
	return disks, d.claim(e, disks, func(v *vm.VM) { put(v, disks) })
}

// inherited are the disks that a child has of its source.
func inherited(home string, src *vm.VM, kept Kept) []vm.UnitDisk {
	var disks []vm.UnitDisk
	if kept.Root != "" {
		disks = append(disks, vm.UnitDisk{Disk: vm.Disk{Path: path.Join(home, hostapi.RootDisk), Parent: kept.Root, Owned: true}})
	}
	for _, disk := range src.DataDisks {
		of := vm.UnitDisk{Unit: disk.Unit, Bytes: disk.Bytes, ReadOnly: disk.ReadOnly}
		if disk.ReadOnly {
			of.Disk = vm.Disk{Path: disk.Path}
		} else {
			of.Disk = vm.Disk{Path: path.Join(home, hostapi.VolumeDisk(disk.Unit)), Parent: kept.Data[disk.Unit], Owned: true}
		}
		disks = append(disks, of)
	}
	return disks
}

// PruneOf prunes what the disks of a VM that is gone were deltas of.
func (d *Disks) PruneOf(v *vm.VM) error {
	var errs []error
	for disk := range all(v) {
		errs = append(errs, d.prune(context.Background(), disk.Parent))
	}
	return errors.Join(errs...)
}

// prune removes the kept disk rel, and those that it is a delta of, as far as nothing needs them any more.
func (d *Disks) prune(ctx context.Context, rel string) error {
	d.forks.Lock()
	defer d.forks.Unlock()
	for isKept(rel) {
		parents, err := d.parents(ctx)
		if errors.Is(err, errUnknown) {
			d.opt.Log.Warn("disks that were kept for forks are not cleared up", "err", err)
			return nil
		}
		if err != nil {
			return err
		}
		next, exists := parents[rel]
		if !exists || d.needed(rel, parents) {
			return nil
		}
		if err := vm.RemoveFile(d.opt.Store, rel); err != nil {
			return err
		}
		rel = next
	}
	return nil
}

// needed says whether a kept disk is a disk's parent, or the fork point of a machine that stands there.
func (d *Disks) needed(rel string, parents map[string]string) bool {
	for _, parent := range parents {
		if parent == rel {
			return true
		}
	}
	for _, v := range d.opt.Inventory.ListAll() {
		if v.Point == rel {
			return true
		}
		for disk := range all(v) {
			if disk.Point == rel || disk.Path == rel || disk.Parent == rel {
				return true
			}
		}
	}
	return false
}

// errUnknown says that it is not known what a disk is a delta of.
var errUnknown = errors.New("what it is a delta of is not known")

// parents returns what the kept disks, and those of the volumes' directory, are deltas of.
func (d *Disks) parents(ctx context.Context) (map[string]string, error) {
	parents := map[string]string{}
	for _, dir := range []string{vm.ForksDir, hostapi.VolumesDir} {
		infos, err := d.opt.Store.List(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, info := range infos {
			rel := path.Join(dir, info.Name())
			if dir == hostapi.VolumesDir && !strings.HasSuffix(rel, ".vmdk") {
				continue
			}
			parent, err := d.parent(ctx, rel)
			switch {
			case dir == hostapi.VolumesDir && errors.Is(err, fs.ErrNotExist): // deleted meanwhile
			case dir == hostapi.VolumesDir && err != nil: // anyone can put a file there
				return nil, fmt.Errorf("%s: %w: %w", datastore.FormatPath(rel), errUnknown, err)
			case err != nil:
				return nil, err
			default:
				parents[rel] = parent
			}
		}
	}
	return parents, nil
}

// parent returns the datastore path of what the disk at rel is a delta of.
func (d *Disks) parent(ctx context.Context, rel string) (string, error) {
	host, err := d.opt.Files.DiskParent(ctx, d.opt.Store.HostPath(rel))
	if err != nil || host == "" {
		return "", err
	}
	return d.opt.Store.Rel(host), nil
}

// Mend brings what the inventory knows of all disks in line with them. An earlier daemon may have died in Keep. It comes before
// anything is pruned.
func (d *Disks) Mend(ctx context.Context) error {
	for _, e := range d.opt.Inventory.Entries() {
		if err := d.mend(ctx, e); err != nil {
			return fmt.Errorf("cannot clear up after a fork of VM %s: %w", e.VM().Name, err)
		}
	}
	return nil
}

func (d *Disks) mend(ctx context.Context, e *inventory.Entry) error {
	for _, disk := range written(e.VM()) {
		if !disk.Owned && disk.Unit == vm.RootSlot {
			continue
		}
		if err := vm.RemoveFile(d.opt.Store, disk.Path+deltaSuffix); err != nil {
			return err
		}
		if !disk.Owned {
			continue
		}
		parent, err := d.parent(ctx, disk.Path)
		if err != nil || parent == disk.Parent || !isKept(parent) {
			continue // the next power-on complains about a disk that cannot be read
		}
		if err := e.Change(inventory.Written, func(v *vm.VM) { setParent(v, disk.Unit, parent) }); err != nil {
			return err
		}
	}
	return nil
}

// Sweep removes the kept disks that nothing needs. An earlier daemon leaves one when it dies before it has used or pruned it.
func (d *Disks) Sweep(ctx context.Context) error {
	parents, err := d.parents(ctx)
	if err != nil && !errors.Is(err, errUnknown) { // prune says the same of each
		return err
	}
	for rel := range parents {
		if err := d.prune(ctx, rel); err != nil {
			return err
		}
	}
	return nil
}
