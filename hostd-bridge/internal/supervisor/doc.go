// Package supervisor is the process behind one virtual machine: it is QEMU's parent, plays the machine's vsock device, and
// keeps its guestinfo and its log. It outlives the daemon, which finds it again by its socket. It exists once per machine, so
// it is small: it knows nothing of vSphere, and it imports nothing that does.
//
// It opens nothing by a path of the host: each file, directory and connection comes as an open file from the daemon, with its Config, its Identity
// or the request that needs it. Its clients, in the same package, are the daemon's side; for them what it says comes from next to the guest.
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
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

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
	KernelFD  = 8 // of a machine that boots
	InitrdFD  = 9 // of a machine that boots
	// CardFD is the socket of the network card in slot 0; those of the other slots follow, and after them the files of captures, one for each
	// card.
	CardFD = 10
)

// Config is the first frame on a supervisor's standard input, a unix socket: all that QEMU needs to start. With it come the files of Files.
type Config struct {
	QEMU      string   `json:"qemu"` // path of the program
	Args      []string `json:"args"` // without the program's name; CPUs do not run, the root slot holds a placeholder
	CID       uint32   `json:"cid"`
	Kernel    bool     `json:"kernelVsock"` // the kernel plays the vsock device
	MemoryMiB int      `json:"memoryMiB"`
	Child     bool     `json:"child"`     // of a template
	Hardware  Hardware `json:"hardware"`  // of a child's template
	Cards     []string `json:"cards"`     // network cards by QEMU's IDs, one for each slot
	RootNode  string   `json:"rootNode"`  // block node of the placeholder
	EmptySize int64    `json:"emptySize"` // bytes of the placeholder
	Debug     bool     `json:"debug"`     // write debug records to supervisor.log
	Capture   bool     `json:"capture"`   // a file for each card, for what it sends and receives

	// Confined has filters of system calls on QEMU and, when that is there, on the supervisor (package jail). This process is the supervisor's
	// program then.
	Confined bool `json:"confined"`
	KVM      bool `json:"kvm"` // QEMU uses the kernel's virtualisation

	// Start starts the supervisor; nil: exec.Cmd.Start.
	Start func(*exec.Cmd) error `json:"-"`
}

func (c Config) start(cmd *exec.Cmd) error {
	if c.Start == nil {
		return cmd.Start()
	}
	return c.Start(cmd)
}

// Files are what a supervisor gets with its Config, in this order. Of Kernel and Initrd, and RAM and State, there is one pair.
type Files struct {
	lock     *os.File // see takeLock
	qemuLog  *os.File // what QEMU says
	exit     *os.File // exit.json
	listener *os.File // where it answers requests

	// Of a machine that boots. Whoever QEMU runs as must be able to read them.
	Kernel, Initrd *os.File
	// Of a child: its template's. The offset of State is the child's own.
	RAM, State *os.File

	captures []*os.File // by slot
}

// all are the files in their order on the wire.
func (f *Files) all() []*os.File {
	first, second := f.Kernel, f.Initrd
	if f.RAM != nil {
		first, second = f.RAM, f.State
	}
	return append([]*os.File{f.lock, f.qemuLog, f.exit, f.listener, first, second}, f.captures...)
}

// filesOf finds out which file is which.
func filesOf(cfg Config, p parcel) (f Files, err error) {
	captures := 0
	if cfg.Capture {
		captures = len(cfg.Cards)
	}
	if err := p.check(6 + captures); err != nil {
		return f, err
	}
	f.lock, f.qemuLog, f.exit, f.listener = p.one(), p.one(), p.one(), p.one()
	if first, second := p.one(), p.one(); cfg.Child {
		f.RAM, f.State = first, second
	} else {
		f.Kernel, f.Initrd = first, second
	}
	f.captures = p.take(captures)
	return f, nil
}

// Identity is the second frame: which machine this is. A supervisor whose input ends without one ends too.
type Identity struct {
	Log   hostapi.Log `json:"log,omitzero"`
	Run   hostapi.Run `json:"run"`   // the number of the run that begins
	Root  Image       `json:"root"`  // without files: the root slot is empty
	Disks []Disk      `json:"disks"` // beside the root disk
	Cards []Card      `json:"cards"` // by slot; those that are not named are spare
	// Rehearsal is a disk for the root slot that counts as none: an image may take its place at any time.
	Rehearsal Image             `json:"rehearsal"`
	Guestinfo map[string]string `json:"guestinfo"`
	// Joined are the slots of cards of which a connection with the switch comes along.
	Joined []int `json:"joined"`

	Home    *os.File `json:"-"` // directory: the files of the log
	Console *os.File `json:"-"` // console.log
	// Connections are those of Joined. What else is needed later the supervisor asks for (Event.Unjoined).
	Connections []*os.File `json:"-"`
}

// Close closes all files.
func (id *Identity) Close() { closeAll(id.files()) }

func (id *Identity) files() []*os.File {
	files := append([]*os.File{id.Home, id.Console}, id.Root.Files...)
	files = append(files, id.Rehearsal.Files...)
	for _, d := range id.Disks {
		files = append(files, d.Image.Files...)
	}
	return append(files, id.Connections...)
}

// receive takes the files that came along.
func (id *Identity) receive(p parcel) error {
	want := 2 + id.Root.Levels + id.Rehearsal.Levels + len(id.Joined)
	for _, d := range id.Disks {
		want += d.Image.Levels
	}
	if err := p.check(want); err != nil {
		return err
	}
	id.Home, id.Console = p.one(), p.one()
	id.Root.Files, id.Rehearsal.Files = p.take(id.Root.Levels), p.take(id.Rehearsal.Levels)
	for i := range id.Disks {
		id.Disks[i].Image.Files = p.take(id.Disks[i].Image.Levels)
	}
	id.Connections = p.take(len(id.Joined))
	return nil
}

// Image is the open files that a disk consists of, all of them qcow2: its own, and below it what that is a delta of. What the headers say of
// that is of no account: the daemon has read and checked them. Only the first file can be written to, unless the disk is read-only.
type Image struct {
	Name   string     `json:"name"`   // for people
	Levels int        `json:"levels"` // number of files
	Files  []*os.File `json:"-"`
}

// NewImage returns the image of files, which it owns.
func NewImage(name string, files ...*os.File) Image {
	return Image{Name: name, Levels: len(files), Files: files}
}

// Close closes the files.
func (i Image) Close() { closeAll(i.Files) }

// Card is what a machine has in a network card's slot. The zero value is a spare card: without a link, and joined to nothing.
type Card struct {
	MAC       string `json:"mac,omitempty"`
	Connected bool   `json:"connected,omitempty"` // the guest sees a link
	Frames    string `json:"frames,omitempty"`    // the network's switch, by a name that the daemon knows; empty: it leads nowhere
}

// Disk is a data disk: a disk of the machine's beside its root disk.
type Disk struct {
	Unit     int   `json:"unit"` // 1 to 15, but 7
	Image    Image `json:"image"`
	ReadOnly bool  `json:"readOnly,omitempty"`
}

// NewDisks are the deltas that take the place of a machine's disks at a fork point.
type NewDisks struct {
	Root Image         `json:"root,omitzero"`  // the delta alone; without a file that disk stays
	Data map[int]Image `json:"data,omitempty"` // by unit; all data disks that are not read-only
}

// files are those of all deltas, in the order of their units.
func (n *NewDisks) files() []*os.File {
	files := slices.Clone(n.Root.Files)
	for _, unit := range slices.Sorted(maps.Keys(n.Data)) {
		files = append(files, n.Data[unit].Files...)
	}
	return files
}

// receive takes the files that came along.
func (n *NewDisks) receive(p parcel) error {
	want := n.Root.Levels
	for _, i := range n.Data {
		want += i.Levels
	}
	if err := p.check(want); err != nil {
		return err
	}
	n.Root.Files = p.take(n.Root.Levels)
	for _, unit := range slices.Sorted(maps.Keys(n.Data)) {
		i := n.Data[unit]
		i.Files = p.take(i.Levels)
		n.Data[unit] = i
	}
	return nil
}

// Close closes the files.
func (n NewDisks) Close() { closeAll(n.files()) }

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

// Result is what a supervisor writes to its standard input, a frame: one when QEMU is there, one when the machine runs. After
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
	Frozen bool `json:"frozen,omitempty"`
	// Unjoined are slots of cards that wait for a connection with their switch (Client.Join).
	Unjoined []int         `json:"unjoined,omitempty"`
	Mark     *hostapi.Mark `json:"mark,omitempty"`
	Exit     *Exit         `json:"exit,omitempty"`
}

// Files of a machine.
func socketPath(runDir string) string  { return filepath.Join(runDir, "supervisor.sock") }
func lockPath(runDir string) string    { return filepath.Join(runDir, "lock") }
func exitPath(runDir string) string    { return filepath.Join(runDir, "exit.json") }
func qemuLogPath(runDir string) string { return filepath.Join(runDir, "qemu.log") }
func ownLogPath(runDir string) string  { return filepath.Join(runDir, "supervisor.log") }

// CapturePath is the file in which a network card's frames are written down, by QEMU's ID of the card.
func CapturePath(runDir, card string) string { return filepath.Join(runDir, card+".pcap") }
