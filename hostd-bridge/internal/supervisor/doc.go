// Package supervisor is the process that stands behind one virtual machine: QEMU's parent, player of its vsock, keeper
// of its guestinfo and of its log. It outlives the daemon, which finds it again by its socket. It is lean because it
// exists once per machine: it knows nothing of vSphere, and it imports nothing that does.
//
// When it ends QEMU ends too, by the parent-death signal; when QEMU ends it writes a last report, exit.json, and ends.
package supervisor

import (
	"path/filepath"
	"time"
)

// Descriptors that QEMU inherits; its arguments name them.
const (
	QMPFD     = 3 // socket of the control connection
	VhostFD   = 4 // stands for /dev/vhost-vsock: see package vsock
	lockFD    = 5 // nobody reads it: it keeps the lock that says that QEMU lives
	ConsoleFD = 6 // socket of the serial console
	RAMFD     = 7 // the guest's memory
	StateFD   = 8 // a child's device state
)

// Descriptors that the supervisor of a child inherits: the files of its Template.
const (
	templateRAM   = 3
	templateState = 4
)

// Config is what a supervisor is told first, as JSON on its standard input: all that QEMU needs to start.
type Config struct {
	RunDir    string   `json:"runDir"` // lock, qemu.log, supervisor.log; moved to Identity.RunDir
	QEMU      string   `json:"qemu"`   // path of the program
	Args      []string `json:"args"`   // without the program's name; CPUs do not run, the root slot holds a placeholder
	CID       uint32   `json:"cid"`
	Kernel    bool     `json:"kernelVsock"` // the kernel plays the vsock device
	MemoryMiB int      `json:"memoryMiB"`
	Child     bool     `json:"child"`     // of a template, whose two files are inherited
	Cards     []string `json:"cards"`     // network cards by QEMU's IDs
	RootNode  string   `json:"rootNode"`  // block node of the placeholder
	EmptySize int64    `json:"emptySize"` // bytes of the placeholder
	Debug     bool     `json:"-"`         // supervisor.log has debug records; told by the flag -v, since the log comes before the Config
}

// Identity is what a supervisor is told second, also as JSON on its standard input: who the machine is. If there is none
// the machine is not wanted.
type Identity struct {
	RunDir   string `json:"runDir"`  // exists; empty unless it is the Config's
	HomeDir  string `json:"homeDir"` // stdio.log, console.log
	RootDisk string `json:"rootDisk"`
	// Rehearsal is a disk for the root slot that counts as none: a RootDisk may take its place at any time. It is removed as soon
	// as QEMU has it open.
	Rehearsal string            `json:"rehearsal"`
	Guestinfo map[string]string `json:"guestinfo"`
}

// Result is what a supervisor writes to its standard output, as JSON: one when QEMU is there, one when the machine runs. After
// one with an Error no other comes.
type Result struct {
	Error string `json:"error,omitempty"`
}

// Exit says how a machine ended: exit.json. Its fields are those of vm.Exit.
type Exit struct {
	At          time.Time         `json:"at"`
	Orderly     bool              `json:"orderly"`
	Reason      string            `json:"reason"`
	ConsoleTail string            `json:"consoleTail,omitempty"`
	Guestinfo   map[string]string `json:"guestinfo,omitempty"`
}

// Event is something that happened: exactly one field is set.
type Event struct {
	Key   string `json:"key,omitempty"`
	Value string `json:"value,omitempty"`
	// Frozen: the guest has called instantclone.freeze.
	Frozen bool  `json:"frozen,omitempty"`
	Mark   *Mark `json:"mark,omitempty"`
	Exit   *Exit `json:"exit,omitempty"`
}

// Mark is a point of the machine's start: fields and names are those of vm.Mark.
type Mark struct {
	Name string    `json:"name"`
	At   time.Time `json:"at"`
}

// Memory is what a machine takes of its host's memory now, in KiB: fields and names are those of vm.Memory.
type Memory struct {
	SharedKiB       int64 `json:"sharedKiB"`
	GuestPrivateKiB int64 `json:"guestPrivateKiB"`
	OverheadKiB     int64 `json:"overheadKiB"`
}

// Names of marks.
const (
	markPrepared  = "prepared"
	markLoaded    = "loaded"
	markResumed   = "resumed"
	markHello     = "hello"
	markLinked    = "linked"
	markFirstByte = "firstByte"
)

// Files of a machine.
func socketPath(runDir string) string   { return filepath.Join(runDir, "supervisor.sock") }
func lockPath(runDir string) string     { return filepath.Join(runDir, "lock") }
func exitPath(runDir string) string     { return filepath.Join(runDir, "exit.json") }
func qemuLogPath(runDir string) string  { return filepath.Join(runDir, "qemu.log") }
func logPath(homeDir string) string     { return filepath.Join(homeDir, "stdio.log") }
func ConsolePath(homeDir string) string { return filepath.Join(homeDir, "console.log") }
