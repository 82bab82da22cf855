package vm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containervm/containervm/hostd-bridge/internal/vm/journal"
)

// Change is a change of a VM's configuration; a field's zero value leaves what it names as it is.
type Change struct {
	Version    int // the change is refused unless the configuration has this version
	Name       string
	UUID       string
	GuestID    string
	Annotation string
	CPUs       int               // needs the VM off
	MemoryMiB  int               // needs the VM off
	Extra      map[string]string // an empty value deletes the key
	Disk       *DiskChange
	AddNICs    []Card  // needs the VM off
	RemoveNICs []int32 // keys; needs the VM off
}

func (c *Change) needsOff() bool {
	return c.CPUs != 0 || c.MemoryMiB != 0 || c.UUID != "" || len(c.AddNICs) > 0 || len(c.RemoveNICs) > 0
}

// Reconfigure changes a VM: all of the change is done, or none of it and an error says why.
func (i *Inventory) Reconfigure(ctx context.Context, ref string, c Change) error {
	e, release, err := i.acquire(ctx, ref)
	if err != nil {
		return err
	}
	defer release()
	if c.Name != "" || len(c.AddNICs) > 0 {
		i.naming.Lock()
		defer i.naming.Unlock()
	}
	v := i.snapshot(e)
	next, err := i.applied(v, &c)
	if err != nil {
		return err
	}
	told := false
	err = i.reslot(ctx, e, c.Disk, func() error {
		told = true // if it fails the guest may have seen it all the same
		return i.tellGuest(ctx, ref, c.Extra)
	}, func(v *VM) {
		next.Config.Disk = v.Disk
		v.Config = next.Config
		maps.DeleteFunc(v.Guest, func(k, _ string) bool { _, set := c.Extra[k]; return set })
	})
	if err == nil {
		return nil
	}
	err = fmt.Errorf("cannot reconfigure VM %s: %w", v.Name, err)
	if told {
		err = errors.Join(err, i.tellGuest(context.WithoutCancel(ctx), ref, former(v, c.Extra)))
	}
	return err
}

// former returns what the keys of a change were before it.
func former(v *VM, change map[string]string) map[string]string {
	old := map[string]string{}
	for k := range change {
		old[k] = v.Extra[k]
	}
	return old
}

// applied returns what v is after the change, or why it cannot be.
func (i *Inventory) applied(v *VM, c *Change) (*VM, error) {
	if c.Version != 0 && c.Version != v.Version {
		return nil, &ArgumentError{Property: "changeVersion", Why: fmt.Sprintf("%d, the configuration has version %d", c.Version, v.Version)}
	}
	if c.needsOff() && v.Power != PoweredOff {
		return nil, &StateError{Name: v.Name, Current: v.Power, Required: PoweredOff}
	}
	if v.Frozen && c.Disk != nil {
		return nil, &FrozenError{Name: v.Name}
	}
	next := v.clone()
	if err := i.resize(next, c); err != nil {
		return nil, err
	}
	if err := i.rename(next, c); err != nil {
		return nil, err
	}
	if err := i.recard(next, c); err != nil {
		return nil, err
	}
	if err := checkExtra(c.Extra); err != nil {
		return nil, err
	}
	next.Extra = merged(next.Extra, c.Extra)
	next.Modified, next.Version = time.Now().UTC(), v.Version+1
	return next, nil
}

func (i *Inventory) resize(next *VM, c *Change) error {
	if c.CPUs != 0 {
		next.CPUs = c.CPUs
	}
	if c.MemoryMiB != 0 {
		next.MemoryMiB = c.MemoryMiB
	}
	return i.checkSize(&next.Config)
}

func (i *Inventory) rename(next *VM, c *Change) error {
	if c.GuestID != "" {
		next.GuestID = c.GuestID
	}
	if c.Annotation != "" {
		next.Annotation = c.Annotation
	}
	if c.UUID != "" {
		if !validUUID.MatchString(c.UUID) {
			return &ArgumentError{Property: "uuid", Why: fmt.Sprintf("%q is no UUID", c.UUID)}
		}
		next.UUID = strings.ToLower(c.UUID)
	}
	if c.Name == "" || c.Name == next.Name {
		return nil
	}
	if !validName(c.Name) {
		return &InvalidNameError{Name: c.Name}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if ref, taken := i.nameTaken(c.Name, next.Ref); taken {
		return &DuplicateNameError{Name: c.Name, Ref: ref}
	}
	next.Name = c.Name
	return nil
}

func (i *Inventory) recard(next *VM, c *Change) error {
	for _, key := range c.RemoveNICs {
		at := slices.IndexFunc(next.NICs, func(card Card) bool { return card.Key == key })
		if at < 0 {
			return &DeviceError{Why: fmt.Sprintf("no network card has the key %d", key)}
		}
		next.NICs = slices.Delete(next.NICs, at, at+1)
	}
	if len(c.AddNICs) == 0 {
		return nil
	}
	next.NICs = append(next.NICs, c.AddNICs...)
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.placeNICs(next)
}

func merged(extra, change map[string]string) map[string]string {
	if extra == nil {
		extra = map[string]string{}
	}
	for k, v := range change {
		if v == "" {
			delete(extra, k)
			continue
		}
		extra[k] = v
	}
	return extra
}

// reslot changes what is in the root slot, tells the guest, and with one record of the journal does the rest of the change.
// The guest is told when a new disk is there, and before an old one goes: a warm child takes its Spec as the sign that its
// disk is there.
func (i *Inventory) reslot(ctx context.Context, e *entry, c *DiskChange, tell func() error, rest func(*VM)) error {
	if c != nil && !c.Remove {
		return i.attach(ctx, e, c, tell, rest)
	}
	if err := tell(); err != nil {
		return err
	}
	if c == nil {
		return i.change(e, journaled, rest)
	}
	return i.detach(ctx, e, c.Drop, rest)
}

// tellGuest hands changed guestinfo to a running machine.
func (i *Inventory) tellGuest(ctx context.Context, ref string, extra map[string]string) error {
	changed := guestKeys(extra)
	m, err := i.Live(ref)
	if err != nil || len(changed) == 0 {
		return nil // off: the guest reads it after the next power-on; frozen: it reads nothing any more
	}
	return m.SetGuestinfo(ctx, changed)
}

// Destroy removes a VM that is off, with its home directory and the disk that it has made itself. A disk that it was
// only given, the parents of disks, and anything that another VM needs are never removed.
func (i *Inventory) Destroy(ctx context.Context, ref string) error {
	e, release, err := i.acquire(ctx, ref)
	if err != nil {
		return err
	}
	defer release()
	v := i.snapshot(e)
	if v.Power != PoweredOff {
		return &StateError{Name: v.Name, Current: v.Power, Required: PoweredOff}
	}
	for _, rel := range ownFiles(v) {
		if user := i.dependant(rel, ref); user != "" {
			return &InUseError{Name: v.Name, Why: "VM " + user + " needs its files"}
		}
	}
	if err := i.change(e, noted, func(v *VM) { v.Pending = &Pending{Kind: pendingDestroy} }); err != nil {
		return err
	}
	return i.finishDestroy(e)
}

// ownFiles are the paths in the datastore that go with a VM.
func ownFiles(v *VM) []string {
	own := []string{v.Home}
	if v.Disk != nil && v.Disk.Own {
		own = append(own, v.Disk.Path)
	}
	return own
}

func (i *Inventory) finishDestroy(e *entry) error {
	v := i.snapshot(e)
	for _, rel := range ownFiles(v) {
		if err := i.drop(rel); err != nil {
			return errors.Join(fmt.Errorf("cannot destroy VM %s: %w", v.Name, err),
				i.change(e, noted, func(v *VM) { v.Pending = nil }))
		}
	}
	if err := i.opt.Journal.Append(journal.Delete(vmKey(v.Ref))); err != nil {
		return err
	}
	i.publish(func() { delete(i.entries, v.Ref) })
	return i.pruneOf(v)
}
