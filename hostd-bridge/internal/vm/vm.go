package vm

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/internal/printable"
)

// PowerState is vSphere's VirtualMachinePowerState.
type PowerState string

// The power states of a VM. A host of this kind does not suspend to disk.
const (
	PoweredOff PowerState = "poweredOff"
	PoweredOn  PowerState = "poweredOn"
)

// VM is the state of a virtual machine at one moment. It is never changed once it is published: whoever holds one may
// read it without a lock, and two equal pointers mean that nothing has changed.
//
// Its JSON is that of the journals which exist: a field can get another name, its key cannot.
type VM struct {
	Ref string `json:"-"` // moref value
	Config
	Power   PowerState        `json:"power"`
	Frozen  bool              `json:"frozen,omitempty"` // it stands still at its fork point, until it is powered off
	Point   string            `json:"point,omitempty"`  // where its disk is as it was when it froze; empty until the first fork needs it
	Run     hostapi.Run       `json:"run,omitempty"`    // the present or last run: that of Guest, Exit and Timeline
	Runs    hostapi.Run       `json:"runs"`             // the last number that was given to a run, also to one that could not start
	Forks   int               `json:"forks,omitempty"`  // how many of its disks were kept for forks: none has the name of another
	Started time.Time         `json:"started,omitzero"` // of the present run
	Guest   map[string]string `json:"guest,omitempty"`  // guestinfo that the guest has set in the present or last run
	// Published are the ports that are published in the present run, as they were bound.
	Published []hostapi.Publication `json:"published,omitempty"`
	Exit      *Exit                 `json:"exit,omitempty"` // how the last run ended; nil while it runs

	InFlight *Operation `json:"pending,omitempty"` // the operation that the next daemon has to finish or to roll back

	Timeline []hostapi.Mark `json:"-"` // of the present or last run; it is lost with the daemon
}

// Config is what a client has configured.
type Config struct {
	Name         string            `json:"name"`
	Pool         string            `json:"pool"` // moref value of the resource pool
	UUID         string            `json:"uuid"` // BIOS UUID
	InstanceUUID string            `json:"instanceUuid"`
	GuestID      string            `json:"guestId,omitempty"`
	Annotation   string            `json:"annotation,omitempty"`
	Created      time.Time         `json:"created"`
	Modified     time.Time         `json:"modified"`
	Version      int               `json:"version"` // counts the changes of this configuration
	Home         string            `json:"home"`    // directory in the datastore
	CPUs         int               `json:"cpus"`
	MemoryMiB    int               `json:"memoryMiB"`
	CPULimit     int64             `json:"cpuLimit,omitempty"` // MHz of NominalMHz for each CPU of the host; 0: none
	CID          uint32            `json:"cid"`
	Disk         *Disk             `json:"disk,omitempty"` // in the root slot
	DataDisks    []UnitDisk        `json:"dataDisks,omitempty"`
	NICs         []Card            `json:"nics,omitempty"`
	Extra        map[string]string `json:"extra,omitempty"`
}

// Log is how much of the output is kept.
func (c *Config) Log() hostapi.Log {
	l, _ := hostapi.DecodeLog(c.Extra[hostapi.KeyLog]) // it was checked
	return l
}

// CPUShare is the limit of CPU time in CPUs; 0: none.
func (c *Config) CPUShare() float64 { return float64(c.CPULimit) / NominalMHz }

// Disk is a disk in a VM's root slot. Paths are in the datastore.
type Disk struct {
	Path   string `json:"path"`
	Parent string `json:"parent,omitempty"`
	Owned  bool   `json:"own,omitempty"` // made by this VM, and destroyed with it
}

// UnitDisk is a data disk: one that a VM has beside that in its root slot, at a unit of its SCSI controller.
type UnitDisk struct {
	// Disk's Parent is known of an owned disk only: another file changes with each fork of a VM that has it, which is not recorded in all VMs
	// that have it in their configurations. Its header knows.
	Disk
	Unit     int   `json:"unit"` // 1 to 15, but 7
	ReadOnly bool  `json:"readOnly,omitempty"`
	Bytes    int64 `json:"bytes"` // its virtual size
	// Point is where its content is as it was when the VM froze; empty until the first fork needs it.
	Point string `json:"point,omitempty"`
}

// Kinds of operations that leave something half done when their daemon dies.
const (
	OpCreate  = "create"
	OpDestroy = "destroy"
	OpStart   = "start"
	OpAttach  = "attach"
	OpDetach  = "detach"
	OpClone   = "clone"
)

// Operation is an operation in flight: what the next daemon must finish or roll back if this one dies.
type Operation struct {
	Kind     string `json:"kind"`
	Disk     *Disk  `json:"disk,omitempty"` // of OpAttach and OpDetach
	MakeFile bool   `json:"made,omitempty"` // of OpAttach: the operation makes the disk's file
	DropFile bool   `json:"drop,omitempty"` // of OpDetach: the operation removes the disk's file
	// Data are the data disks of OpAttach, which makes the files of those that are owned, and of OpDetach, which removes the files of Drop.
	Data []UnitDisk `json:"data,omitempty"`
	Drop []string   `json:"dropFiles,omitempty"`
	Boot string     `json:"boot,omitempty"` // of OpClone: the host's boot in which it began
}

// Making says whether the VM is still being made: then clients do not see it.
func (v *VM) Making() bool {
	return v.InFlight != nil && (v.InFlight.Kind == OpCreate || v.InFlight.Kind == OpClone)
}

// ExtraConfig returns what clients see as config.extraConfig: what they have set, what the guest has set, which run that was
// in, how the run came to be, which ports are published, and how it ended.
func (v *VM) ExtraConfig() map[string]string {
	all := make(map[string]string, len(v.Extra)+len(v.Guest)+3)
	maps.Copy(all, v.Extra)
	for key, value := range v.Guest { // people read it, and what is no XML would be lost
		all[key] = printable.Text(strings.ToValidUTF8(value, string(unicode.ReplacementChar)))
	}
	if v.Exit != nil {
		exit := v.Exit
		all[hostapi.KeyExit] = text(hostapi.Exit{Run: v.Run, At: exit.At, Orderly: exit.Orderly, Reason: exit.Reason, ConsoleTail: exit.ConsoleTail})
	}
	if v.Run > 0 {
		all[hostapi.KeyRun] = v.Run.String()
	}
	if len(v.Timeline) > 0 {
		all[hostapi.KeyTimeline] = text(v.Timeline)
	}
	if len(v.Published) > 0 && v.Power == PoweredOn {
		all[hostapi.KeyPublished] = text(v.Published)
	}
	return all
}

// text is JSON of what cannot fail to be encoded: strings, bools and valid times.
func text(value any) string {
	data, _ := json.Marshal(value)
	return string(data)
}

// GuestKeys returns those of the keys of extraConfig that the guest can read by info-get.
func GuestKeys(extra map[string]string) map[string]string {
	out := map[string]string{}
	for k, val := range extra {
		if strings.HasPrefix(k, hostapi.GuestPrefix) {
			out[k] = val
		}
	}
	return out
}

// MergeExtra returns extraConfig after a change, in which an empty value deletes the key. It may change extra.
func MergeExtra(extra, change map[string]string) map[string]string {
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

// Copy returns a copy whose maps and slices can be changed.
func (v *VM) Copy() *VM {
	next := *v
	next.Extra = maps.Clone(v.Extra)
	next.Guest = maps.Clone(v.Guest)
	next.NICs = slices.Clone(v.NICs)
	next.DataDisks = slices.Clone(v.DataDisks)
	next.Timeline = slices.Clone(v.Timeline)
	return &next
}

// Files returns the paths in the datastore that go with the VM when it is destroyed.
func (v *VM) Files() []string {
	files := []string{v.Home}
	if v.Disk != nil && v.Disk.Owned {
		files = append(files, v.Disk.Path)
	}
	for _, d := range v.DataDisks {
		if d.Owned {
			files = append(files, d.Path)
		}
	}
	return files
}

// DataDisk returns the VM's data disk with a unit number, or nil.
func (c *Config) DataDisk(unit int) *UnitDisk {
	for n := range c.DataDisks {
		if c.DataDisks[n].Unit == unit {
			return &c.DataDisks[n]
		}
	}
	return nil
}
