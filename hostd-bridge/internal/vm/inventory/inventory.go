package inventory

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/journal"
)

// Inventory is the state of all VMs, resource pools and networks of a host. Its methods may be called by several goroutines.
type Inventory struct {
	journal *journal.Journal
	store   *datastore.Store // for the choice of homes
	signal  *vm.Signal

	alloc sync.Mutex // see Lock order

	mu       sync.Mutex
	entries  map[string]*Entry
	pools    map[string]*vm.Pool
	networks map[string]*vm.Network
	leaving  map[string]bool // networks that are being removed
	layout   int             // counts the changes of networks
	next     counters
	leased   map[uint32]bool // CIDs that no VM has yet, and that are given to none
	inFlight int             // operations
	lastEnd  time.Time       // of an operation
	ended    *vm.Signal      // an operation has ended
}

// counters are the last numbers that were given out: none is given twice, but for CIDs, which come round.
type counters struct {
	Ref  int    `json:"ref"`
	CID  uint32 `json:"cid"`
	Pool int    `json:"pool"`

	Network int `json:"network,omitempty"`
}

// Keys of the journal's documents.
const (
	countersKey = "counters"
	networkKind = "network"
	poolKind    = "pool"
	vmKind      = "vm"
)

func poolKey(ref string) string { return poolKind + "/" + ref }
func vmKey(ref string) string   { return vmKind + "/" + ref }

// Open reads the inventory from its journal. Operations that were in flight when it was last open are as VM.InFlight says.
func Open(j *journal.Journal, store *datastore.Store) (*Inventory, error) {
	i := &Inventory{
		journal: j, store: store, signal: &vm.Signal{}, ended: &vm.Signal{},
		entries: map[string]*Entry{}, pools: map[string]*vm.Pool{vm.RootPool: rootPool()}, leased: map[uint32]bool{},
		networks: map[string]*vm.Network{vm.DefaultNetwork: defaultNetwork()}, leaving: map[string]bool{},
	}
	for key, doc := range j.Documents() {
		if err := i.load(key, doc); err != nil {
			return nil, fmt.Errorf("cannot read %s from the journal: %w", key, err)
		}
	}
	return i, nil
}

func (i *Inventory) load(key string, doc json.RawMessage) error {
	kind, ref, _ := strings.Cut(key, "/")
	switch kind {
	case countersKey:
		return json.Unmarshal(doc, &i.next)
	case poolKind:
		p := &vm.Pool{Ref: ref}
		i.pools[ref] = p
		return json.Unmarshal(doc, p)
	case networkKind:
		n := &vm.Network{Ref: ref}
		i.networks[ref] = n
		return json.Unmarshal(doc, n)
	case vmKind:
		v := &vm.VM{Ref: ref}
		i.entries[ref] = i.newEntry(v)
		err := json.Unmarshal(doc, v)
		v.Mend()
		return err
	}
	return fmt.Errorf("unknown kind of document %q: written by a newer version?", kind)
}

// Signal is woken at every change that is published, but for those of Entry.Annotate.
func (i *Inventory) Signal() *vm.Signal { return i.signal }

// Get returns the VM with the moref value ref. One that is being made is not there.
func (i *Inventory) Get(ref string) (*vm.VM, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	e, ok := i.entries[ref]
	if !ok || e.vm.Making() {
		return nil, false
	}
	return e.vm, true
}

// List returns all VMs, oldest first, without those that are being made.
func (i *Inventory) List() []*vm.VM {
	vms := slices.DeleteFunc(i.ListAll(), (*vm.VM).Making)
	slices.SortFunc(vms, func(a, b *vm.VM) int {
		return cmp.Or(cmp.Compare(len(a.Ref), len(b.Ref)), strings.Compare(a.Ref, b.Ref))
	})
	return vms
}

// ListAll returns all VMs, also those that are being made, in no order.
func (i *Inventory) ListAll() []*vm.VM {
	i.mu.Lock()
	defer i.mu.Unlock()
	vms := make([]*vm.VM, 0, len(i.entries))
	for _, e := range i.entries {
		vms = append(vms, e.vm)
	}
	return vms
}

// Entries returns the entries of all VMs.
func (i *Inventory) Entries() []*Entry {
	i.mu.Lock()
	defer i.mu.Unlock()
	entries := make([]*Entry, 0, len(i.entries))
	for _, e := range i.entries {
		entries = append(entries, e)
	}
	return entries
}

// Machine returns the running machine of a VM.
func (i *Inventory) Machine(ref string) (vm.Machine, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.machineLocked(ref)
}

func (i *Inventory) machineLocked(ref string) (vm.Machine, error) {
	e, ok := i.entries[ref]
	switch {
	case !ok || e.vm.Making():
		return nil, &vm.NotFoundError{Ref: ref}
	case e.machine == nil:
		return nil, &vm.StateError{Name: e.vm.Name, Current: e.vm.Power, Required: vm.PoweredOn}
	}
	return e.machine, nil
}

// Live returns the machine of a VM whose guest runs.
func (i *Inventory) Live(ref string) (vm.Machine, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	m, err := i.machineLocked(ref)
	if err != nil {
		return nil, err
	}
	if v := i.entries[ref].vm; v.Frozen {
		return nil, &vm.FrozenError{Name: v.Name}
	}
	return m, nil
}

// WaitRun waits until a run later than the last one has begun and returns its machine, or nil if it has ended again already.
func (i *Inventory) WaitRun(ctx context.Context, ref string, last hostapi.Run) (vm.Machine, error) {
	for {
		changed := i.signal.Changed()
		v, ok := i.Get(ref)
		if !ok {
			return nil, &vm.NotFoundError{Ref: ref}
		}
		if m, err := i.Machine(ref); err == nil {
			return m, nil
		}
		if v.Run > last && v.InFlight == nil {
			return nil, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Sync returns when all that was written is on the disk.
func (i *Inventory) Sync() error { return i.journal.Sync() }

// Operations says how many operations are in flight and when the last one ended. The channel is closed when the next one ends.
func (i *Inventory) Operations() (inFlight int, lastEnd time.Time, ended <-chan struct{}) {
	ended = i.ended.Changed()
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.inFlight, i.lastEnd, ended
}

// begin counts an operation as in flight until the function that it returns is called.
func (i *Inventory) begin() (end func()) {
	i.mu.Lock()
	i.inFlight++
	i.mu.Unlock()
	return func() {
		i.mu.Lock()
		i.inFlight--
		i.lastEnd = time.Now()
		i.mu.Unlock()
		i.ended.Wake()
	}
}

// publish changes what is guarded by mu and wakes the waiters.
func (i *Inventory) publish(edit func()) {
	i.mu.Lock()
	edit()
	i.mu.Unlock()
	i.signal.Wake()
}
