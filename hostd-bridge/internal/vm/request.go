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
	CPULimit   *int64            // as Config.CPULimit
	Extra      map[string]string // an empty value deletes the key
	Disk       *DiskChange
	DataDisks  []DiskChange
	Cards      CardChanges
}

// NeedsOff says whether the VM has to be off for the change.
func (c *Change) NeedsOff() bool {
	return c.CPUs != 0 || c.MemoryMiB != 0 || c.UUID != "" || c.Cards.address()
}

// Disks are all changes of disks.
func (c *Change) Disks() []DiskChange { return AllDisks(c.Disk, c.DataDisks) }

// AllDisks are the change of a root slot, which may be nil, and those of data disks.
func AllDisks(root *DiskChange, data []DiskChange) []DiskChange {
	if root == nil {
		return data
	}
	return append([]DiskChange{*root}, data...)
}

// Units of a DiskChange.
const (
	RootSlot = 0  // the root slot
	AnyUnit  = -1 // the root slot if it is empty, and else the first free unit
)

// DiskChange is a change of what a VM has in its root slot, or at a unit of its SCSI controller. Paths are in the datastore.
type DiskChange struct {
	Unit     int    // RootSlot, AnyUnit, or that of a data disk
	Remove   bool   // empty the slot; else fill it
	Path     string // of the disk; with Create it may be empty: "<home>/<name>.vmdk", of a data disk hostapi.VolumeDisk in the home
	Parent   string // with Create: what the new disk is a delta of; empty: the blank disk
	Create   bool   // make the disk's file
	Drop     bool   // with Remove: delete the disk's file
	ReadOnly bool   // of a data disk: the VM does not write to it
}

// CloneSpec says what an instant clone has of its own; all else is its source's.
type CloneSpec struct {
	Name  string
	Pool  string            // moref value of the resource pool; empty: the source's
	UUID  string            // BIOS UUID; empty: a new one
	Home  string            // directory in the datastore; empty: the name
	Extra map[string]string // over what is inherited; an empty value deletes the key
	Cards CardChanges       // of the source's cards; each has a new MAC unless it is given one
	Disk  *DiskChange       // fills the root slot, which must be empty in the source
	// DataDisks are added, at units that are free in the source. What the source has the clone has too: of a disk that it writes to a copy of
	// its own, of one that it only reads the same.
	DataDisks []DiskChange
}

// Outcome is how a start of a machine ended.
type Outcome struct {
	Fork       bool // by a clone; else by a power-on
	Prestarted bool // the clone took a prestarted machine
	Took       time.Duration
	Err        error
}
