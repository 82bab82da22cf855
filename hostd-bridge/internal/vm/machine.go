package vm

import (
	"context"
	"io"
	"net"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vmlog"
)

// Hypervisor realises virtual machines on this host. Package qemu implements it; tests use an in-memory one.
type Hypervisor interface {
	// Start launches a machine and returns once its CPUs run. When it fails nothing is left of the machine.
	Start(ctx context.Context, spec MachineSpec) (Machine, error)
	// Adopt finds the machine of the VM ref that an earlier daemon started in runDir. When it has ended it returns (nil, exit, nil);
	// when runDir holds no trace of a machine it returns an Exit that says so.
	Adopt(ctx context.Context, ref, runDir string) (Machine, *Exit, error)
	// Prestart starts all of a machine that does not depend on which VM it will be: its QEMU waits for the state of the fork point. It
	// ends with this process.
	Prestart(ctx context.Context, at ForkPoint, spec PrestartSpec) (Prestarted, error)
	// LimitsCPUs says why machines' CPU time cannot be limited; nil: it can.
	LimitsCPUs() error
	// Describe says what accelerates the machines and why, for people ("TCG: no vmx or svm flag").
	Describe() string
	// Isolation says how machines are kept from their host, in a word or two ("full"), and what of it this host lacks, for people.
	Isolation() (level string, lacks []string)
}

// Machine is a running virtual machine. Its methods may be called by several goroutines.
type Machine interface {
	// Events yields what happens in the machine, beginning with all guestinfo that the guest has set so far. An event
	// with Exit is the last one; the channel is closed after it, or after Close.
	Events() <-chan Event
	// SetGuestinfo changes what the guest reads by info-get. An empty value removes the key.
	SetGuestinfo(ctx context.Context, kv map[string]string) error
	// Dial connects to a vsock port of the guest.
	Dial(ctx context.Context, port uint32) (net.Conn, error)
	// Log reads the log, and says with which offset it begins. It ends with the machine at the latest, and may end before all was read: what
	// follows is then in the files.
	Log(ctx context.Context, r vmlog.Reader) (log io.ReadCloser, at int64, err error)
	// SetLog changes how much of the log is kept.
	SetLog(ctx context.Context, limits hostapi.Log) error
	// AttachDisk puts a disk into the machine's root slot, which must be empty. It must be a delta of parent, unless that is empty.
	AttachDisk(ctx context.Context, path, parent string) error
	// DetachDisk empties the root slot; the guest must have unmounted the disk.
	DetachDisk(ctx context.Context) error
	// PlugDisk puts a data disk into the machine, whose unit must be free; the guest sees it as by hot-plug.
	PlugDisk(ctx context.Context, disk DataDisk) error
	// UnplugDisk takes the data disk with a unit number out; the guest must have unmounted it. ErrNoDisk: there is none.
	UnplugDisk(ctx context.Context, unit int) error
	// SetNIC says what the card in a slot is from now on. A child's card passes no frame before the guest's receipt, whatever is set.
	SetNIC(ctx context.Context, slot int, nic NIC) error
	// LimitCPUs lets the machine use at most so much time of the host's CPUs from now on, in CPUs; 0: as much as there is.
	LimitCPUs(ctx context.Context, cpus float64) error
	// Pause stops the CPUs; Resume lets them go on.
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	// ForkPoint returns the fork point of a machine that is frozen. The caller closes it.
	ForkPoint(ctx context.Context) (ForkPoint, error)
	// Snapshot stops the CPUs, takes memory and device state, has everything that is written from then on go to new disks, deltas of the
	// machine's present ones that the caller has made, and lets the CPUs go on. Also when it fails the machine goes on; each disk
	// is then the old one or the new one, which have the same content.
	Snapshot(ctx context.Context, to NewDisks) (ForkPoint, error)
	// Memory measures what the machine takes of the host's memory now.
	Memory(ctx context.Context) (hostapi.Memory, error)
	// Reset restarts the guest as by a reset button.
	Reset(ctx context.Context) error
	// Kill ends the machine at once, as by pulling the plug, and returns when its processes are gone.
	Kill(ctx context.Context) error
	// Close releases the machine without ending it: Adopt finds it again.
	Close() error
}

// ForkPoint is the memory and the device state of a machine that stands still, as open files that nobody can change. Machines
// that go on from it may outlive it, and the machine that it was taken of.
type ForkPoint interface {
	// MemoryMiB is the size of the memory; ResidentMiB is how much of it is not zero.
	MemoryMiB() int
	ResidentMiB() int
	Close() error
}

// PrestartSpec is what of a machine has to be known when its QEMU is prestarted. The devices are those of the fork point, and every
// machine has all slots for network cards.
type PrestartSpec struct {
	RunDir    string // an empty directory that the caller has made; Start moves it, else the caller removes it after Close
	CPUs      int
	MemoryMiB int
	Machine   string // as MachineSpec.Machine
	CID       uint32
}

// Prestarted is a machine that waits to become a VM's.
type Prestarted interface {
	// Start gives the machine its identity (Name, RunDir, HomeDir, RootDisk, Guestinfo of spec; RunDir exists and is empty) and
	// lets it go on from the fork point. Its cards pass no frame before the guest's receipt. It returns once its CPUs run. When it fails
	// nothing is left of the machine. It can be called once.
	Start(ctx context.Context, spec MachineSpec) (Machine, error)
	// Close ends a machine that was not started. When it fails something may be left, and RunDir shows it.
	Close() error
}

// Event is something that happened in a machine: exactly one field is set.
type Event struct {
	Guestinfo *Guestinfo
	// Frozen: the guest has called instantclone.freeze. It comes again to whoever adopts the machine.
	Frozen bool
	// Mark is a point of the start-up timeline on the host's side.
	Mark *hostapi.Mark
	Exit *Exit
}

// Guestinfo is a key that the guest has set.
type Guestinfo struct{ Key, Value string }

// Exit says how a machine ended.
type Exit struct {
	Run hostapi.Run `json:"run"`
	At  time.Time   `json:"at"`
	// Orderly: the guest powered itself off.
	Orderly bool `json:"orderly"`
	// Reason is for people: what ended it ("guest kernel panic: ...", "QEMU killed by signal 9").
	Reason string `json:"reason"`
	// ConsoleTail is the end of the guest's console, at most 4 KiB.
	ConsoleTail string `json:"consoleTail,omitempty"`
	// Guestinfo is all that the guest had set when it ended.
	Guestinfo map[string]string `json:"guestinfo,omitempty"`
}

// MachineSpec is what a hypervisor needs to know of a machine. All paths are absolute paths of this host.
type MachineSpec struct {
	Ref       string // moref value, unique on this host ("vm-12")
	Name      string
	UUID      string // BIOS UUID
	RunDir    string // sockets and state of the running machine; made by the caller
	HomeDir   string // the VM's directory on its datastore: console.log and the files of the log
	Log       hostapi.Log
	CPUs      int
	CPULimit  float64 // of the host's CPU time, in CPUs; 0: none
	MemoryMiB int
	Machine   string // hostapi.MachineMicroVM (also when empty) or hostapi.MachineQ35
	Kernel    string // ELF vmlinux with a PVH entry, or bzImage
	Initrd    string
	Cmdline   string // added to what the hypervisor needs itself
	RootDisk  string // qcow2; empty: the root slot is empty
	Parent    string // what RootDisk must be a delta of; empty: what its header says
	DataDisks []DataDisk
	Blank     string            // qcow2: what a warm VM that is to rehearse (link.KeyRehearse) finds a delta of in its empty slot
	NICs      []NIC             // by slot, hostapi.MaxCards at most; every machine has all slots
	Run       hostapi.Run       // the number of the run that begins
	CID       uint32            // vsock context ID, 3 to 1<<28-1
	Guestinfo map[string]string // what info-get answers
}

// DiskInfo is what a disk's header and file tell.
type DiskInfo struct {
	VirtualBytes int64
	ActualBytes  int64  // allocated on the host
	Parent       string // absolute path on this host, or empty
}

// Disks makes disk files, and reads their headers and nothing else of them. Package qemu implements it.
type Disks interface {
	// DiskInfo reads the header of a disk. It is an error when a machine could not use the disk, or reach other files through it.
	DiskInfo(ctx context.Context, path string) (DiskInfo, error)
	// GrowDisk gives a disk that no machine has open a larger virtual size, also when the process or the host dies in it: it has the old
	// or the new one then.
	GrowDisk(ctx context.Context, path string, bytes int64) error
	// CreateDisk makes a delta of the disk parent at path; both are absolute paths of this host, path must not exist.
	CreateDisk(ctx context.Context, path, parent string) error
	// DiskParent returns the absolute path of the disk that the one at path is a delta of, or "".
	DiskParent(ctx context.Context, path string) (string, error)
}

// NIC is what a machine has in a card's slot. The zero value is a spare card: without a link, and joined to nothing.
type NIC struct {
	MAC       string
	Connected bool   // the guest sees a link
	Frames    string `json:"-"` // path of the socket of the network's switch (package frames); empty: it leads nowhere
}

// DataDisk is a disk of a machine beside its root disk. The guest knows it by its serial number, hostapi.DiskSerial of its unit.
type DataDisk struct {
	Unit     int    // 1 to 15, but 7
	Path     string // qcow2, an absolute path of this host
	Parent   string // what it must be a delta of; empty: what its header says
	ReadOnly bool
}

// NewDisks are the deltas that take the place of a machine's disks in a Snapshot. Paths are absolute paths of this host.
type NewDisks struct {
	Root string         // empty: there is no root disk
	Data map[int]string // by unit; all data disks that are not read-only
}
