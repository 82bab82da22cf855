package inventory

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/journal"
)

const (
	// minCID and maxCID bound the vsock context IDs of guests: 0 to 2 are reserved (linux/vm_sockets.h), and
	// link.HostPort leaves 28 bits.
	minCID = 3
	maxCID = 1<<28 - 1
)

// Allocate gives a VM its reference, CID, home and MACs, and records it as one that is being made by the caller, whose operation on it
// lasts until release is called. v.InFlight says which. cid is one that was leased; 0: a free one.
func (i *Inventory) Allocate(v *vm.VM, cid uint32) (e *Entry, release func(), err error) {
	i.alloc.Lock()
	defer i.alloc.Unlock()
	home, err := i.freeHomeLocked(v)
	if err != nil {
		return nil, nil, err
	}
	e, next, err := i.enterLocked(v.Copy(), home, cid) // the caller keeps its maps and slices
	if err != nil {
		return nil, nil, err
	}
	if err := i.recordNew(next, e.vm); err != nil {
		i.publish(func() { delete(i.entries, e.vm.Ref) })
		return nil, nil, err
	}
	return e, e.releaser(i.begin()), nil
}

// enterLocked takes a VM into the inventory, in memory. It returns the counters as they are after it. The caller holds alloc.
func (i *Inventory) enterLocked(v *vm.VM, home string, cid uint32) (*Entry, counters, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if ref, taken := i.nameTakenLocked(v.Name, ""); taken {
		return nil, counters{}, &vm.DuplicateNameError{Name: v.Name, Ref: ref}
	}
	if _, ok := i.pools[v.Pool]; !ok {
		return nil, counters{}, &vm.NotFoundError{Ref: v.Pool}
	}
	if err := i.placeNICsLocked(v); err != nil {
		return nil, counters{}, err
	}
	i.next.Ref++
	v.Ref, v.Home, v.CID = fmt.Sprintf("vm-%d", i.next.Ref), home, cid
	if cid == 0 {
		v.CID = i.freeCIDLocked()
		i.next.CID = v.CID
	}
	delete(i.leased, cid)
	e := i.newEntry(v)
	e.operation <- struct{}{}
	i.entries[v.Ref] = e
	return e, i.next, nil
}

func (i *Inventory) recordNew(next counters, v *vm.VM) error {
	doc, err := journal.Put(vmKey(v.Ref), v)
	if err != nil {
		return err
	}
	count, err := journal.Put(countersKey, next)
	if err != nil {
		return err
	}
	return i.journal.Write(doc, count)
}

// Claim gives the name and the network cards of next to the VM, as far as nobody has them, until the operation in flight ends: by
// then they are in its record. It chooses MACs where there are none.
func (e *Entry) Claim(next *vm.VM) error {
	e.inv.mu.Lock()
	defer e.inv.mu.Unlock()
	if ref, taken := e.inv.nameTakenLocked(next.Name, next.Ref); taken {
		return &vm.DuplicateNameError{Name: next.Name, Ref: ref}
	}
	if err := e.inv.placeNICsLocked(next); err != nil {
		return err
	}
	e.claimed = vm.Config{Name: next.Name, NICs: next.NICs}
	return nil
}

// nameTakenLocked says which VM has the name. The caller holds mu.
func (i *Inventory) nameTakenLocked(name, except string) (string, bool) {
	for ref, e := range i.entries {
		if ref != except && (e.vm.Name == name || e.claimed.Name == name) {
			return ref, true
		}
	}
	return "", false
}

// freeHomeLocked chooses the VM's directory: its name, or that with a number behind it where a directory is in the way. The caller
// holds alloc.
func (i *Inventory) freeHomeLocked(v *vm.VM) (string, error) {
	others := i.ListAll()
	base := v.Home
	if base == "" {
		base = v.Name
	}
	for n := 0; ; n++ {
		home := base
		if n > 0 {
			home = fmt.Sprintf("%s_%d", base, n)
		}
		if home == vm.ForksDir || home == hostapi.VolumesDir || slices.ContainsFunc(others, func(v *vm.VM) bool { return v.Home == home }) {
			continue
		}
		_, err := i.store.Stat(home)
		if errors.Is(err, fs.ErrNotExist) {
			return home, nil
		}
		if err != nil {
			return "", &vm.FileError{Path: datastore.FormatPath(home), Err: err}
		}
	}
}

// LeaseCID takes a free context ID, for a VM to come. Allocate or ReturnCID ends the lease.
func (i *Inventory) LeaseCID() uint32 {
	i.mu.Lock()
	defer i.mu.Unlock()
	cid := i.freeCIDLocked()
	i.next.CID, i.leased[cid] = cid, true
	return cid
}

// ReturnCID ends a lease that Allocate has not ended; else it does nothing.
func (i *Inventory) ReturnCID(cid uint32) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.leased, cid)
}

// freeCIDLocked returns the next context ID that no VM has and that is not leased. Freed ones come back only after all others, so
// that a packet of a dead guest meets no new one. The caller holds mu.
func (i *Inventory) freeCIDLocked() uint32 {
	taken := func(cid uint32) bool {
		for _, e := range i.entries {
			if e.vm.CID == cid {
				return true
			}
		}
		return i.leased[cid]
	}
	for cid := i.next.CID; ; {
		if cid++; cid < minCID || cid > maxCID {
			cid = minCID
		}
		if !taken(cid) {
			return cid
		}
	}
}

// placeNICsLocked gives every card a MAC of its own, in a network that there is. The caller holds mu.
func (i *Inventory) placeNICsLocked(v *vm.VM) error {
	if err := i.checkNetworksLocked(v); err != nil {
		return err
	}
	for n := range v.NICs {
		if err := i.placeMACLocked(v, n); err != nil {
			return err
		}
	}
	return nil
}

// placeMACLocked checks the MAC of the VM's card n, or chooses one. The caller holds mu.
func (i *Inventory) placeMACLocked(v *vm.VM, n int) error {
	taken := func(mac string) bool {
		has := func(c vm.Card) bool { return c.MAC == mac }
		for _, e := range i.entries {
			if e.vm.Ref != v.Ref && (slices.ContainsFunc(e.vm.NICs, has) || slices.ContainsFunc(e.claimed.NICs, has)) {
				return true
			}
		}
		return slices.ContainsFunc(v.NICs[:n], has) || slices.ContainsFunc(v.NICs[n+1:], has)
	}
	card := &v.NICs[n]
	if card.MAC != "" {
		hw, err := net.ParseMAC(card.MAC)
		if err != nil || len(hw) != 6 || hw[0]&1 != 0 {
			return &vm.DeviceError{Why: fmt.Sprintf("MAC address %q is no unicast Ethernet address", card.MAC)}
		}
		if card.MAC = hw.String(); taken(card.MAC) {
			return &vm.DeviceError{Why: "MAC address " + card.MAC + " is taken"}
		}
		return nil
	}
	for card.MAC == "" || taken(card.MAC) {
		card.MAC = randomMAC()
	}
	return nil
}

// randomMAC returns an address of the range that vCenter gives out: VMware's OUI 00:50:56, fourth byte 80 to bf.
func randomMAC() string {
	var b [3]byte
	rand.Read(b[:])
	return net.HardwareAddr{0x00, 0x50, 0x56, 0x80 | b[0]&0x3f, b[1], b[2]}.String()
}
