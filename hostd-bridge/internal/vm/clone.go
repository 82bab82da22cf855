package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// CloneSpec says what an instant clone has of its own; all else is its source's.
type CloneSpec struct {
	Name  string
	Pool  string            // moref value of the resource pool; empty: the source's
	UUID  string            // BIOS UUID; empty: a new one
	Home  string            // directory in the datastore; empty: the name
	Extra map[string]string // over what is inherited; an empty value deletes the key
	NICs  map[int32]NIC     // what cards are to be, by their keys; an empty MAC, and a card that is not named: a new MAC
	Disk  *DiskChange       // fills the root slot, which must be empty in the source
}

// forksPerCPU is how many children for each of the host's CPUs come to life at once; more would only make all of them late.
const forksPerCPU = 2

// InstantClone makes a VM that goes on from where the VM source is, and returns once its CPUs run. A source that is frozen
// is forked from its fork point. One that runs is stopped for a moment; its disk as it is then is kept for the child.
func (i *Inventory) InstantClone(ctx context.Context, source string, spec CloneSpec) (ref string, err error) {
	defer i.under()()
	out, begun := Outcome{Fork: true}, time.Now()
	defer func() {
		out.Err = err
		i.observe(out, begun)
	}()
	s, release, err := i.acquire(ctx, source)
	if err != nil {
		return "", err
	}
	release = sync.OnceFunc(release)
	defer release()
	src := i.snapshot(s)
	if src.Power != PoweredOn {
		return "", &StateError{Name: src.Name, Current: src.Power, Required: PoweredOn}
	}
	config, err := i.childConfig(src, &spec)
	if err != nil {
		return "", err
	}
	e, p, err := i.conceive(src, config)
	if err != nil {
		return "", err
	}
	defer func() { <-e.busy }()
	out.Prepared = p != nil
	err = i.fork(ctx, &birth{s: s, src: src, e: e, prepared: p, disk: spec.Disk, release: release})
	i.settled(e, err == nil)
	if err != nil {
		return "", errors.Join(fmt.Errorf("cannot clone VM %s as %s: %w", src.Name, config.Name, i.orEnded(s, err)), i.forget(e))
	}
	return i.snapshot(e).Ref, nil
}

// conceive allocates the VM of a clone, with the CID of a prepared child if there is one for it.
func (i *Inventory) conceive(src *VM, config Config) (*entry, *prepared, error) {
	var p *prepared
	var cid uint32
	if src.Frozen {
		if p = i.use(src.Ref, true); p != nil {
			cid = p.cid
		}
	}
	e, err := i.allocate(config, pendingClone, cid)
	if err != nil && p != nil {
		i.putBack(src.Ref, p)
	}
	return e, p, err
}

// orEnded returns the error that says that the VM is off when it has ended meanwhile, which explains err.
func (i *Inventory) orEnded(s *entry, err error) error {
	if v := i.snapshot(s); v.Power != PoweredOn {
		return &StateError{Name: v.Name, Current: v.Power, Required: PoweredOn}
	}
	return err
}

// childConfig is the configuration of a clone of src, or what is wrong with it.
func (i *Inventory) childConfig(src *VM, spec *CloneSpec) (Config, error) {
	c := Config{
		Name: spec.Name, Pool: cmp.Or(spec.Pool, src.Pool), UUID: spec.UUID, GuestID: src.GuestID, Annotation: src.Annotation,
		Home: spec.Home, CPUs: src.CPUs, MemoryMiB: src.MemoryMiB, Extra: inherited(src.Extra),
	}
	if spec.Disk != nil && src.Disk != nil {
		return c, &DeviceError{Why: "the root slot holds a disk in VM " + src.Name + ": its clones have that"}
	}
	if err := checkExtra(spec.Extra); err != nil {
		return c, err
	}
	c.Extra = merged(c.Extra, spec.Extra)
	edits := maps.Clone(spec.NICs)
	for _, card := range src.NICs {
		nic, edited := edits[card.Key]
		if !edited {
			nic = NIC{Connected: card.Connected}
		}
		delete(edits, card.Key)
		c.NICs = append(c.NICs, Card{Key: card.Key, NIC: nic})
	}
	for key := range edits {
		return c, &DeviceError{Why: fmt.Sprintf("VM %s has no network card with the key %d", src.Name, key)}
	}
	return c, i.checkConfig(&c)
}

// inherited returns the keys of extraConfig that a clone has of its source.
func inherited(extra map[string]string) map[string]string {
	out := maps.Clone(extra)
	maps.DeleteFunc(out, func(k, _ string) bool { return !hostapi.Inherited(k) })
	return out
}

// hostDisk is the path on this host of the VM's disk, or "".
func (i *Inventory) hostDisk(v *VM) string {
	if v.Disk == nil {
		return ""
	}
	return i.opt.Store.HostPath(v.Disk.Path)
}

func childSpec(src *VM) ChildSpec {
	return ChildSpec{CPUs: src.CPUs, MemoryMiB: src.MemoryMiB, Machine: src.Extra[hostapi.KeyMachine], NICs: len(src.NICs)}
}

// furnish makes the files of a child: its home with what it inherits of the log, its disk, its run directory.
func (i *Inventory) furnish(ctx context.Context, src *VM, e *entry, disk *DiskChange) error {
	v := i.snapshot(e)
	if err := i.opt.Store.Mkdir(v.Home, true); err != nil {
		return err
	}
	if !src.Frozen {
		if err := i.copyLog(src, v); err != nil {
			return err
		}
	}
	if disk != nil {
		if err := i.makeDisk(ctx, disk, v.Disk); err != nil {
			return err
		}
	}
	return os.MkdirAll(i.runDir(v.Ref), 0o700)
}

// froze records that the guest stands at its fork point. It is not synced: a machine that outlives its daemon says it again.
func (i *Inventory) froze(e *entry) {
	i.use(i.snapshot(e).Ref, false)
	defer i.stir()
	if err := i.change(e, noted, func(v *VM) { v.Frozen = true }); err != nil {
		i.opt.Log.Error("cannot note that a machine is frozen", "vm", i.snapshot(e).Name, "err", err)
	}
}
