package vm

import (
	"context"
	"io"
	"net"
	"time"
)

// Hypervisor realises virtual machines on this host. Package qemu implements it; tests use an in-memory one.
type Hypervisor interface {
	// Start launches a machine and returns once its CPUs run. When it fails nothing is left of the machine.
	Start(ctx context.Context, spec MachineSpec) (Machine, error)
	// Adopt finds the machine that an earlier daemon started in runDir. When it has ended it returns (nil, exit, nil);
	// when runDir holds no trace of a machine it returns an Exit that says so.
	Adopt(ctx context.Context, runDir string) (Machine, *Exit, error)
	// Describe says what accelerates the machines and why, for people ("TCG: no vmx or svm flag").
	Describe() string
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
	// Log reads the log file from byte offset from; with follow it goes on as the log grows and ends with the machine.
	Log(ctx context.Context, from int64, follow bool) (io.ReadCloser, error)
	// AttachDisk puts a disk into the machine's root slot, which must be empty.
	AttachDisk(ctx context.Context, path string) error
	// DetachDisk empties the root slot; the guest must have unmounted the disk.
	DetachDisk(ctx context.Context) error
	// Pause stops the CPUs; Resume lets them go on.
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	// Reset restarts the guest as by a reset button.
	Reset(ctx context.Context) error
	// Kill ends the machine at once, as by pulling the plug, and returns when its processes are gone.
	Kill(ctx context.Context) error
	// Close lets go of the machine without ending it: an Adopt finds it again.
	Close() error
}

// Event is something that happened in a machine: exactly one field is set.
type Event struct {
	Guestinfo *Guestinfo
	Exit      *Exit
}

// Guestinfo is a key that the guest has set.
type Guestinfo struct{ Key, Value string }

// Exit says how a machine ended.
type Exit struct {
	At time.Time `json:"at"`
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
	HomeDir   string // the VM's directory on its datastore: console.log and stdio.log
	CPUs      int
	MemoryMiB int
	Machine   string // MachineMicroVM (also when empty) or MachineQ35
	Kernel    string // ELF vmlinux with a PVH entry, or bzImage
	Initrd    string
	Cmdline   string // added to what the hypervisor needs itself
	RootDisk  string // qcow2; empty: the root slot is empty
	NICs      []NIC
	CID       uint32            // vsock context ID, 3 to 1<<28-1
	Guestinfo map[string]string // what info-get answers
}

// Machine types of MachineSpec.Machine, also the values of the extraConfig key "cvm.machine".
const (
	MachineMicroVM = "microvm"
	MachineQ35     = "q35"
)

// Disks makes disk files. Package qemu implements it.
type Disks interface {
	// CreateDisk makes a delta of the disk parent at path; both are absolute paths of this host, path must not exist.
	CreateDisk(ctx context.Context, path, parent string) error
}

// NIC is one network card.
type NIC struct {
	MAC       string
	Connected bool
}
