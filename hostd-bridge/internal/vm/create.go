package vm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

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
		Ref: fmt.Sprintf("vm-%d", next.Ref), Config: config, Power: PoweredOff, Pending: &Pending{Kind: kind, Boot: i.opt.BootID}, Timeline: begun(),
	}).clone() // the caller keeps its maps and slices
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

// firstNICKey is the device key of the first network card, as on ESXi.
const firstNICKey = 4000

// placeNICs gives every card a key and a MAC of its own; the caller holds mu.
func (i *Inventory) placeNICs(v *VM) error {
	for n := range v.NICs {
		card := &v.NICs[n]
		if card.Key <= 0 {
			card.Key = firstNICKey
			for slices.ContainsFunc(v.NICs, func(c Card) bool { return c != *card && c.Key == card.Key }) {
				card.Key++
			}
		}
		if err := i.placeMAC(v, n); err != nil {
			return err
		}
	}
	return nil
}

func (i *Inventory) placeMAC(v *VM, n int) error {
	taken := func(mac string) bool {
		has := func(v *VM, except int) bool {
			for at, c := range v.NICs {
				if at != except && c.MAC == mac {
					return true
				}
			}
			return false
		}
		return has(v, n) || i.any(func(other *VM) bool { return other.Ref != v.Ref && has(other, -1) })
	}
	card := &v.NICs[n]
	if card.MAC != "" {
		hw, err := net.ParseMAC(card.MAC)
		if err != nil || len(hw) != 6 || hw[0]&1 != 0 {
			return &DeviceError{Why: fmt.Sprintf("MAC address %q is no unicast Ethernet address", card.MAC)}
		}
		if card.MAC = hw.String(); taken(card.MAC) {
			return &DeviceError{Why: "MAC address " + card.MAC + " is taken"}
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

// checkConfig completes a new VM's configuration or says what is wrong with it.
func (i *Inventory) checkConfig(c *Config) error {
	if !validName(c.Name) {
		return &InvalidNameError{Name: c.Name}
	}
	if err := i.checkSize(c); err != nil {
		return err
	}
	if c.UUID == "" {
		c.UUID = newUUID()
	}
	if c.InstanceUUID == "" {
		c.InstanceUUID = newUUID()
	}
	for _, id := range []*string{&c.UUID, &c.InstanceUUID} {
		if !validUUID.MatchString(*id) {
			return &ArgumentError{Property: "uuid", Why: fmt.Sprintf("%q is no UUID", *id)}
		}
		*id = strings.ToLower(*id)
	}
	c.Home = strings.Trim(path.Clean("/"+c.Home), "/")
	c.Created = time.Now().UTC()
	c.Modified, c.Version = c.Created, 1
	return checkExtra(c.Extra)
}

// checkSize checks the CPUs and memory: no VM has more than its host, as on ESXi.
func (i *Inventory) checkSize(c *Config) error {
	cpus := min(maxCPUs, i.opt.HostCPUs)
	switch {
	case c.CPUs < 1 || c.CPUs > cpus:
		return &ArgumentError{Property: "numCPUs", Why: fmt.Sprintf("%d, must be 1 to %d: the host has %d CPUs", c.CPUs, cpus, i.opt.HostCPUs)}
	case c.MemoryMiB < minMemoryMiB:
		return &ArgumentError{Property: "memoryMB", Why: fmt.Sprintf("%d, must be at least %d", c.MemoryMiB, minMemoryMiB)}
	case int64(c.MemoryMiB) > i.opt.HostMemoryMiB:
		return &MemoryError{Where: "the host", Requested: int64(c.MemoryMiB), Available: i.opt.HostMemoryMiB}
	}
	return nil
}

// checkExtra bounds extraConfig: a key is 1 to 255 printable characters, a value at most 512 KiB (half of a guestinfo
// message), and the machine type is a known one.
func checkExtra(extra map[string]string) error {
	for k, v := range extra {
		switch {
		case k == "" || len(k) > 255 || strings.ContainsFunc(k, unicode.IsControl):
			return &ArgumentError{Property: "extraConfig", Why: fmt.Sprintf("key %.64q is no key", k)}
		case len(v) > 512<<10:
			return &ArgumentError{Property: "extraConfig", Why: fmt.Sprintf("the value of %s is longer than 512 KiB", k)}
		case k == KeyExit, k == KeyTimeline:
			return &ArgumentError{Property: "extraConfig", Why: k + " is set by the host alone"}
		case k == KeyMachine && v != "" && v != MachineMicroVM && v != MachineQ35:
			return &ArgumentError{Property: "extraConfig " + k, Why: fmt.Sprintf("%q is neither %s nor %s", v, MachineMicroVM, MachineQ35)}
		}
	}
	return nil
}

// validName says whether a name can be an object's: vSphere's limit is 80 characters, and / is not in a path's element.
func validName(name string) bool {
	return name != "" && name != "." && name != ".." && utf8.ValidString(name) && utf8.RuneCountInString(name) <= 80 &&
		!strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r == '\\' || unicode.IsControl(r) })
}

// newUUID returns a random UUID, version 4 of RFC 9562.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
