package vm

import "time"

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

// NeedsOff says whether the VM has to be off for the change.
func (c *Change) NeedsOff() bool {
	return c.CPUs != 0 || c.MemoryMiB != 0 || c.UUID != "" || len(c.AddNICs) > 0 || len(c.RemoveNICs) > 0
}

// DiskChange is a change of a VM's root slot. Paths are in the datastore.
type DiskChange struct {
	Remove bool   // empty the slot; else fill it
	Path   string // of the disk; with Create it may be empty: "<home>/<name>.vmdk"
	Parent string // with Create: what the new disk is a delta of; empty: the blank disk
	Create bool   // make the disk's file
	Drop   bool   // with Remove: delete the disk's file
}

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

// Outcome is how a start of a machine ended.
type Outcome struct {
	Fork       bool // by a clone; else by a power-on
	Prestarted bool // the clone took a prestarted machine
	Took       time.Duration
	Err        error
}
