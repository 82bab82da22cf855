package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"

	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/journal"
)

const (
	countersKey = "counters"
	// minCID and maxCID bound the vsock context IDs of guests: 0 to 2 are reserved (linux/vm_sockets.h), and
	// link.HostPort leaves 28 bits.
	minCID = 3
	maxCID = 1<<28 - 1
	// minMemoryMiB and maxCPUs bound what a VM may have: less memory boots no kernel, more CPUs QEMU's machines refuse.
	minMemoryMiB = 4
	maxCPUs      = 255
)

// validUUID is the textual form of RFC 9562, section 4.
var validUUID = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// Create makes a VM that is off. config.Name, CPUs, MemoryMiB and Pool are needed; Home, UUIDs and MACs are chosen where
// they are empty, all else of Config that the host owns is ignored. disk may be nil.
func (i *Inventory) Create(ctx context.Context, config Config, disk *DiskChange) (string, error) {
	if err := i.checkConfig(&config); err != nil {
		return "", err
	}
	e, err := i.allocate(config, pendingCreate, 0)
	if err != nil {
		return "", err
	}
	defer func() { <-e.busy }()
	v := i.snapshot(e)
	if err := i.build(ctx, e, disk); err != nil {
		return "", errors.Join(fmt.Errorf("cannot create VM %s: %w", v.Name, err), i.forget(e))
	}
	return v.Ref, nil
}

// allocate gives a VM its reference, CID, home and MACs and notes it as one that is being made, by the caller: kind is that
// of its Pending. The CID is one that is held for it; 0: a free one.
func (i *Inventory) allocate(config Config, kind string, cid uint32) (*entry, error) {
	i.naming.Lock()
	defer i.naming.Unlock()
	i.mu.Lock()
	defer i.mu.Unlock()
	if ref, taken := i.nameTaken(config.Name, ""); taken {
		return nil, &DuplicateNameError{Name: config.Name, Ref: ref}
	}
	if _, ok := i.pools[config.Pool]; !ok {
		return nil, &NotFoundError{Ref: config.Pool}
	}
	next := i.next
	next.Ref++
	v := (&VM{
		Ref: fmt.Sprintf("vm-%d", next.Ref), Config: config, Power: PoweredOff, Pending: &Pending{Kind: kind, Boot: i.opt.BootID},
	}).clone() // the caller keeps its maps and slices
	if kind == pendingClone {
		v.Timeline, v.Run, v.Runs = begun(), 1, 1 // it is born running
	}
	if v.CID = cid; cid == 0 {
		v.CID = i.freeCID(next.CID)
		next.CID = v.CID
	}
	if err := i.placeNICs(v); err != nil {
		return nil, err
	}
	if err := i.placeHome(v); err != nil {
		return nil, err
	}
	if err := i.noteNew(next, v); err != nil {
		return nil, err
	}
	e := newEntry(v)
	i.next, i.entries[v.Ref] = next, e
	delete(i.stock.held, cid)
	e.busy <- struct{}{}
	return e, nil
}

func (i *Inventory) noteNew(next counters, v *VM) error {
	doc, err := journal.Put(vmKey(v.Ref), v)
	if err != nil {
		return err
	}
	count, err := journal.Put(countersKey, next)
	if err != nil {
		return err
	}
	return i.opt.Journal.Note(doc, count)
}

// build makes the files of a VM that was allocated, and publishes it.
func (i *Inventory) build(ctx context.Context, e *entry, disk *DiskChange) error {
	if err := i.opt.Store.Mkdir(i.snapshot(e).Home, true); err != nil {
		return err
	}
	if disk != nil {
		if err := i.noteDisk(e, disk); err != nil {
			return err
		}
		if err := i.makeDisk(ctx, disk, i.snapshot(e).Disk); err != nil {
			return err
		}
	}
	return i.change(e, journaled, func(v *VM) { v.Pending = nil })
}

// forget undoes a creation that did not end: it removes what the VM would have owned and its place in the inventory.
func (i *Inventory) forget(e *entry) error {
	v := i.snapshot(e)
	err := os.RemoveAll(i.runDir(v.Ref))
	for _, rel := range ownFiles(v) {
		err = errors.Join(err, i.drop(rel))
	}
	if err != nil {
		return err
	}
	err = i.opt.Journal.Append(journal.Delete(vmKey(v.Ref)))
	i.publish(func() { delete(i.entries, v.Ref) })
	return errors.Join(err, i.pruneOf(v))
}

// nameTaken says which VM has the name; the caller holds mu.
func (i *Inventory) nameTaken(name, except string) (string, bool) {
	for ref, e := range i.entries {
		if ref != except && e.vm.Name == name {
			return ref, true
		}
	}
	return "", false
}

// freeCID returns the next context ID after last that no VM and no prepared child has; the caller holds mu. Freed ones come back only after
// all others, so that a packet of a dead guest meets no new one.
func (i *Inventory) freeCID(last uint32) uint32 {
	for cid := last; ; {
		if cid++; cid < minCID || cid > maxCID {
			cid = minCID
		}
		if !i.stock.held[cid] && !i.any(func(v *VM) bool { return v.CID == cid }) {
			return cid
		}
	}
}

// any says whether a VM fits; the caller holds mu.
func (i *Inventory) any(fits func(*VM) bool) bool {
	for _, e := range i.entries {
		if fits(e.vm) {
			return true
		}
	}
	return false
}

// placeHome chooses the VM's directory: its name, or that with a number behind it where a directory is in the way. The
// caller holds mu.
func (i *Inventory) placeHome(v *VM) error {
	base := v.Home
	if base == "" {
		base = v.Name
	}
	for n := 0; ; n++ {
		home := base
		if n > 0 {
			home = fmt.Sprintf("%s_%d", base, n)
		}
		if home == forksDir || i.any(func(other *VM) bool { return other.Home == home }) {
			continue
		}
		_, err := i.opt.Store.Stat(home)
		if errors.Is(err, fs.ErrNotExist) {
			v.Home = home
			return nil
		}
		if err != nil {
			return &FileError{Path: datastore.FormatPath(home), Err: err}
		}
	}
}
