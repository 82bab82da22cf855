package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
)

// forksDir is the directory in the datastore of the disks that forks are deltas of. It is at depth one, as the homes of
// VMs are: disk files name their parents relative to their own directories.
const forksDir = "cvm-forks"

// layingSuffix ends the name of a delta that is about to take a disk's place.
const layingSuffix = ".laying"

// keepDisk keeps the content of a VM's disk as it is now, as a file of forksDir, and puts an empty delta of it in its
// place. It returns the kept file.
//
// At each moment the disk's path names a whole disk with the same content: a second name of the old file, then a rename
// over the first. So there is nothing to undo: not after a crash, since the delta says itself what it is a delta of (mend),
// and not when the fork fails; a machine that has the old file open may go on with it, as long as nothing is forked of it.
func (i *Inventory) keepDisk(ctx context.Context, e *entry) (string, error) {
	i.forks.Lock()
	defer i.forks.Unlock()
	v := i.snapshot(e)
	if !v.Disk.Own {
		return "", &DeviceError{Why: datastore.FormatPath(v.Disk.Path) + " was given to VM " + v.Name + ": only a disk that a VM has made itself can be forked"}
	}
	kept := path.Join(forksDir, fmt.Sprintf("%s-%d.vmdk", v.Ref, v.Forks+1))
	if err := i.change(e, noted, func(v *VM) { v.Forks++ }); err != nil {
		return "", err
	}
	err := i.opt.Store.Mkdir(forksDir, true)
	if err == nil {
		err = i.opt.Store.Link(v.Disk.Path, kept)
	}
	if err == nil {
		err = i.layDelta(ctx, v.Disk.Path, kept)
		if err != nil {
			err = errors.Join(err, i.drop(kept))
		}
	}
	if err != nil {
		return "", fmt.Errorf("cannot keep disk %s for the fork: %w", datastore.FormatPath(v.Disk.Path), err)
	}
	return kept, i.change(e, noted, func(v *VM) {
		v.Disk = &Disk{Path: v.Disk.Path, Parent: kept, Own: true}
		if v.Frozen {
			v.Point = kept
		}
	})
}

// layDelta puts a delta of the file kept in the place of the disk at rel, of which kept is another name.
func (i *Inventory) layDelta(ctx context.Context, rel, kept string) error {
	store := i.opt.Store
	before, err := i.opt.Disks.DiskParent(ctx, store.HostPath(rel))
	if err != nil {
		return err
	}
	if after, err := i.opt.Disks.DiskParent(ctx, store.HostPath(kept)); err != nil || after != before {
		return errors.Join(err, &DeviceError{Why: "its parent is not found from another directory: a disk that is forked lies in a directory of the datastore's root, and its parent in another"})
	}
	laying := rel + layingSuffix
	if err := i.drop(laying); err != nil { // of a crash
		return err
	}
	if err := i.opt.Disks.CreateDisk(ctx, store.HostPath(laying), store.HostPath(kept)); err != nil {
		return err
	}
	err = store.Sync(laying) // before the rename: a crash of the host must not leave an empty disk
	if err == nil {
		err = store.Move(laying, rel, true)
	}
	if err != nil {
		return errors.Join(err, i.drop(laying))
	}
	return nil
}

// planChildDisk says what is in the root slot of a child, and notes it. kept is what the source's disk was, or empty.
func (i *Inventory) planChildDisk(e *entry, c *DiskChange, kept string) (*DiskChange, error) {
	if kept != "" {
		c = &DiskChange{Create: true, Path: path.Join(i.snapshot(e).Home, hostapi.RootDisk), Parent: kept}
	}
	if c == nil {
		return nil, nil
	}
	return c, i.noteDisk(e, c)
}

// kept says whether a path is that of a file in forksDir.
func kept(rel string) bool { return path.Dir(rel) == forksDir }

// prune removes the kept disk rel, and those that it is a delta of, as far as nothing needs them any more.
func (i *Inventory) prune(ctx context.Context, rel string) error {
	i.forks.Lock()
	defer i.forks.Unlock()
	for kept(rel) {
		parents, err := i.keptParents(ctx)
		if err != nil {
			return err
		}
		next, exists := parents[rel]
		if !exists || i.needed(rel, parents) {
			return nil
		}
		if err := i.drop(rel); err != nil {
			return err
		}
		rel = next
	}
	return nil
}

// pruneOf prunes what the disk was a delta of of a VM that is gone.
func (i *Inventory) pruneOf(v *VM) error {
	if v.Disk == nil {
		return nil
	}
	return i.prune(context.Background(), v.Disk.Parent)
}

// needed says whether a kept disk is a disk's parent, or the fork point of a machine that stands there.
func (i *Inventory) needed(rel string, parents map[string]string) bool {
	for _, parent := range parents {
		if parent == rel {
			return true
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.any(func(v *VM) bool {
		pending := v.Pending != nil && v.Pending.Disk != nil && v.Pending.Disk.Parent == rel
		return v.Point == rel || pending || (v.Disk != nil && (v.Disk.Path == rel || v.Disk.Parent == rel))
	})
}

// keptParents returns what the files of forksDir are deltas of.
func (i *Inventory) keptParents(ctx context.Context) (map[string]string, error) {
	infos, err := i.opt.Store.List(forksDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	parents := map[string]string{}
	for _, info := range infos {
		rel := path.Join(forksDir, info.Name())
		if parents[rel], err = i.parent(ctx, rel); err != nil {
			return nil, err
		}
	}
	return parents, nil
}

// parent returns the datastore path of what the disk at rel is a delta of.
func (i *Inventory) parent(ctx context.Context, rel string) (string, error) {
	host, err := i.opt.Disks.DiskParent(ctx, i.opt.Store.HostPath(rel))
	if err != nil || host == "" {
		return "", err
	}
	return i.opt.Store.Rel(host), nil
}

// mendDisks mends all disks; it comes before anything is pruned.
func (i *Inventory) mendDisks(ctx context.Context) error {
	for _, e := range i.all() {
		if err := i.mend(ctx, e); err != nil {
			return fmt.Errorf("cannot clear up after a fork of VM %s: %w", i.snapshot(e).Name, err)
		}
	}
	return nil
}

// mend brings what the inventory knows of a VM's disk in line with the disk itself, which a daemon that died in keepDisk
// may have changed last.
func (i *Inventory) mend(ctx context.Context, e *entry) error {
	v := i.snapshot(e)
	if v.Disk == nil || !v.Disk.Own {
		return nil
	}
	if err := i.drop(v.Disk.Path + layingSuffix); err != nil {
		return err
	}
	parent, err := i.parent(ctx, v.Disk.Path)
	if err != nil || parent == v.Disk.Parent || !kept(parent) {
		return nil // a disk that cannot be read is the next power-on's to complain about
	}
	return i.change(e, noted, func(v *VM) { v.Disk = &Disk{Path: v.Disk.Path, Parent: parent, Own: true} })
}

// sweepForks removes the kept disks that nothing needs, which a daemon leaves that dies before it has used or pruned one.
func (i *Inventory) sweepForks(ctx context.Context) error {
	parents, err := i.keptParents(ctx)
	if err != nil {
		return err
	}
	for rel := range parents {
		if err := i.prune(ctx, rel); err != nil {
			return err
		}
	}
	return nil
}
