// Package supervisor is the process behind one virtual machine: it is QEMU's parent, plays the machine's vsock device, and
// keeps its guestinfo and its log. It outlives the daemon, which finds it again by its socket. It exists once per machine, so
// it is small: it knows nothing of vSphere, and it imports nothing that does.
//
// When it ends QEMU ends too, by the parent-death signal; when QEMU ends it writes a last report, exit.json, and ends.
//
// # States of a machine
//
//	prestarted       -- begin: identity, disk, a child's state --> running
//	running          -- pause --> paused -- resume --> running
//	running, paused  -- a fork point is taken --> copying -- done, or failed --> as before
//	                                              copying -- freeze --> frozen
//	each of them     -- abandon, kill, QEMU's end --> ending
//
// One goroutine owns the state, the memory files, the disks and what the network cards are: that of Run, which starts the machine and then executes
// operations one after the other (machine.own). So nothing lets the CPUs run while their memory is copied, and a freeze and a
// snapshot wait for each other. A kill waits for no operation: it kills QEMU, and the operation in flight fails.
package supervisor

import (
	"os/exec"
	"path/filepath"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// Descriptors that QEMU inherits; its arguments name them.
const (
	QMPFD     = 3 // socket of the control connection
	VhostFD   = 4 // stands for /dev/vhost-vsock: see package vsock
	lockFD    = 5 // the lock that is taken while QEMU lives; QEMU does not use it
	ConsoleFD = 6 // socket of the serial console
	RAMFD     = 7 // the guest's memory
	StateFD   = 8 // a child's device state
	CardFD    = 9 // socket of the network card in slot 0; those of the other slots follow
)

// Descriptors that the supervisor of a child inherits: the files of its Template.
const (
	templateRAM   = 3
	templateState = 4
)

// Config is the first JSON document on a supervisor's standard input: all that QEMU needs to start.
type Config struct {
	RunDir    string   `json:"runDir"` // lock, qemu.log, supervisor.log; moved to Identity.RunDir
	QEMU      string   `json:"qemu"`   // path of the program
	Args      []string `json:"args"`   // without the program's name; CPUs do not run, the root slot holds a placeholder
	CID       uint32   `json:"cid"`
	Kernel    bool     `json:"kernelVsock"` // the kernel plays the vsock device
	MemoryMiB int      `json:"memoryMiB"`
	Child     bool     `json:"child"`     // of a template, whose two files are inherited
	Hardware  Hardware `json:"hardware"`  // of a child's template
	Cards     []string `json:"cards"`     // network cards by QEMU's IDs, one for each slot
	RootNode  string   `json:"rootNode"`  // block node of the placeholder
	EmptySize int64    `json:"emptySize"` // bytes of the placeholder
	Debug     bool     `json:"debug"`     // write debug records to supervisor.log

	// Start starts the supervisor; nil: exec.Cmd.Start.
	Start func(*exec.Cmd) error `json:"-"`
}

func (c Config) start(cmd *exec.Cmd) error {
	if c.Start == nil {
		return cmd.Start()
	}
	return c.Start(cmd)
}

// Identity is the second JSON document: which machine this is. A supervisor whose input ends without one ends too.
type Identity struct {
	RunDir   string      `json:"runDir"`  // exists; empty unless it is the Config's
	VM       string      `json:"vm"`      // reference of the virtual machine, for switches
	HomeDir  string      `json:"homeDir"` // console.log and the files of the log
	Log      hostapi.Log `json:"log,omitzero"`
	Run      hostapi.Run `json:"run"` // the number of the run that begins
	RootDisk string      `json:"rootDisk"`
	Disks    []Disk      `json:"disks"` // beside the root disk
	Cards    []Card      `json:"cards"` // by slot; those that are not named are spare
	// Rehearsal is a disk for the root slot that counts as none: a RootDisk may take its place at any time. It is removed as soon
	// as QEMU has it open.
	Rehearsal string            `json:"rehearsal"`
	Guestinfo map[string]string `json:"guestinfo"`
}

// Card is what a machine has in a network card's slot. The zero value is a spare card: without a link, and joined to nothing.
type Card struct {
	MAC       string `json:"mac,omitempty"`
	Connected bool   `json:"connected,omitempty"` // the guest sees a link
	Frames    string `json:"frames,omitempty"`    // path of the socket of the network's switch; empty: it leads nowhere
}

// Disk is a data disk: a disk of the machine's beside its root disk.
type Disk struct {
	Unit     int    `json:"unit"` // 1 to 15, but 7
	Path     string `json:"path"`
	ReadOnly bool   `json:"readOnly,omitempty"`
}

// NewDisks are the deltas that take the place of a machine's disks at a fork point.
type NewDisks struct {
	Root string         `json:"root,omitempty"` // empty: that disk stays
	Data map[int]string `json:"data,omitempty"` // by unit; all data disks that are not read-only
}

// Hardware is what a machine has at its fork point beside what the arguments of all QEMUs say. A child must have the same
// when it loads the state.
type Hardware struct {
	Links []bool         `json:"links,omitempty"` // by slot: the guest sees a link
	Disks []HardwareDisk `json:"disks,omitempty"`
	// Token is what the tether in its memory begins its connections with: see package guestinfo.
	Token string `json:"token,omitempty"`
}

// HardwareDisk is a data disk of Hardware.
type HardwareDisk struct {
	Unit     int  `json:"unit"`
	ReadOnly bool `json:"readOnly,omitempty"`
}

// Result is what a supervisor writes to its standard output, as JSON: one when QEMU is there, one when the machine runs. After
// one with an Error no other comes.
type Result struct {
	Error string `json:"error,omitempty"`
}

// Exit says how a machine ended: exit.json.
type Exit struct {
	hostapi.Exit
	// Guestinfo is all that the guest had set when it ended.
	Guestinfo map[string]string `json:"guestinfo,omitempty"`
}

// Event is something that happened: exactly one field is set.
type Event struct {
	Key   string `json:"key,omitempty"`
	Value string `json:"value,omitempty"`
	// Frozen: the guest has called instantclone.freeze.
	Frozen bool          `json:"frozen,omitempty"`
	Mark   *hostapi.Mark `json:"mark,omitempty"`
	Exit   *Exit         `json:"exit,omitempty"`
}

// Files of a machine.
func socketPath(runDir string) string  { return filepath.Join(runDir, "supervisor.sock") }
func lockPath(runDir string) string    { return filepath.Join(runDir, "lock") }
func exitPath(runDir string) string    { return filepath.Join(runDir, "exit.json") }
func qemuLogPath(runDir string) string { return filepath.Join(runDir, "qemu.log") }
func ownLogPath(runDir string) string  { return filepath.Join(runDir, "supervisor.log") }

// ConsolePath is the file that keeps the end of the console's output.
func ConsolePath(homeDir string) string { return filepath.Join(homeDir, hostapi.ConsoleFile) }
