package disks

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/inventory"
)

// deltaSuffix ends the name of a delta that is about to take a disk's place.
const deltaSuffix = ".delta"

// isKept says whether a path is that of a kept disk.
func isKept(rel string) bool { return path.Dir(rel) == vm.ForksDir }

// Keep keeps the content of a VM's disk as it is now, as a file of vm.ForksDir, and puts an empty delta of it in its place. It returns
// the kept file.
//
// At each moment the disk's path names a whole disk with the same content: a second name of the old file, then a rename
// over the first. So there is nothing to roll back: not after a crash, since the delta says itself what it is a delta of (see mend),
// and not when the fork fails; a machine that has the old file open may go on with it, as long as nothing is forked of it.
func (d *Disks) Keep(ctx context.Context, e *inventory.Entry) (string, error) {
	d.forks.Lock()
	defer d.forks.Unlock()
	v := e.VM()
	if !v.Disk.Owned {
		return "", &vm.DeviceError{Why: datastore.FormatPath(v.Disk.Path) + " was given to VM " + v.Name + ": only a disk that a VM has made itself can be forked"}
	}
	kept := path.Join(vm.ForksDir, fmt.Sprintf("%s-%d.vmdk", v.Ref, v.Forks+1))
	if err := e.Change(inventory.Written, func(v *vm.VM) { v.Forks++ }); err != nil {
		return "", err
	}
	if err := d.link(ctx, v.Disk.Path, kept); err != nil {
		return "", fmt.Errorf("cannot keep disk %s for the fork: %w", datastore.FormatPath(v.Disk.Path), err)
	}
	return kept, e.Change(inventory.Written, func(v *vm.VM) {
		v.Disk = &vm.Disk{Path: v.Disk.Path, Parent: kept, Owned: true}
		if v.Frozen {
			v.Point = kept
		}
	})
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
	if err != nil {
		return errors.Join(err, vm.RemoveFile(store, delta))
	}
	return nil
}

// PlanChild says what is in the root slot of a child, and records it. kept is what the source's disk was, or empty.
func (d *Disks) PlanChild(e *inventory.Entry, c *vm.DiskChange, kept string) (*vm.DiskChange, error) {
	if kept != "" {
		c = &vm.DiskChange{Create: true, Path: path.Join(e.VM().Home, hostapi.RootDisk), Parent: kept}
	}
	if c == nil {
		return nil, nil
	}
	return c, d.Plan(e, c)
}

// PruneOf prunes what the disk of a VM that is gone was a delta of.
func (d *Disks) PruneOf(v *vm.VM) error {
	if v.Disk == nil {
		return nil
	}
	return d.prune(context.Background(), v.Disk.Parent)
}

// prune removes the kept disk rel, and those that it is a delta of, as far as nothing needs them any more.
func (d *Disks) prune(ctx context.Context, rel string) error {
	d.forks.Lock()
	defer d.forks.Unlock()
	for isKept(rel) {
		parents, err := d.keptParents(ctx)
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
		planned := v.InFlight != nil && v.InFlight.Disk != nil && v.InFlight.Disk.Parent == rel
		if v.Point == rel || planned || (v.Disk != nil && (v.Disk.Path == rel || v.Disk.Parent == rel)) {
			return true
		}
	}
	return false
}

// keptParents returns what the kept disks are deltas of.
func (d *Disks) keptParents(ctx context.Context) (map[string]string, error) {
	infos, err := d.opt.Store.List(vm.ForksDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	parents := map[string]string{}
	for _, info := range infos {
		rel := path.Join(vm.ForksDir, info.Name())
		if parents[rel], err = d.parent(ctx, rel); err != nil {
			return nil, err
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
	v := e.VM()
	if v.Disk == nil || !v.Disk.Owned {
		return nil
	}
	if err := vm.RemoveFile(d.opt.Store, v.Disk.Path+deltaSuffix); err != nil {
		return err
	}
	parent, err := d.parent(ctx, v.Disk.Path)
	if err != nil || parent == v.Disk.Parent || !isKept(parent) {
		return nil // the next power-on complains about a disk that cannot be read
	}
	return e.Change(inventory.Written, func(v *vm.VM) { v.Disk = &vm.Disk{Path: v.Disk.Path, Parent: parent, Owned: true} })
}

// Sweep removes the kept disks that nothing needs. An earlier daemon leaves one when it dies before it has used or pruned it.
func (d *Disks) Sweep(ctx context.Context) error {
	parents, err := d.keptParents(ctx)
	if err != nil {
		return err
	}
	for rel := range parents {
		if err := d.prune(ctx, rel); err != nil {
			return err
		}
	}
	return nil
}
