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
	QMPFD   = 3 // socket of the control connection
	VhostFD = 4 // stands for /dev/vhost-vsock: see package vsock
)

// Config is what a supervisor is told, as JSON on its standard input.
type Config struct {
	RunDir    string            `json:"runDir"`  // socket, exit.json, qemu.log
	HomeDir   string            `json:"homeDir"` // stdio.log, console.log
	QEMU      string            `json:"qemu"`    // path of the program
	Args      []string          `json:"args"`    // without the program's name
	CID       uint32            `json:"cid"`
	Kernel    bool              `json:"kernelVsock"` // the kernel plays the vsock device
	Guestinfo map[string]string `json:"guestinfo"`
	RootNode  string            `json:"rootNode"`  // block node in the root slot: RootDisk's or the placeholder's
	RootDisk  string            `json:"rootDisk"`  // path, or empty
	EmptySize int64             `json:"emptySize"` // bytes of the placeholder
}

// Result is what a supervisor writes to its standard output, as JSON, when the machine runs or cannot.
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
	Exit  *Exit  `json:"exit,omitempty"`
}

// Files of a machine.
func socketPath(runDir string) string   { return filepath.Join(runDir, "supervisor.sock") }
func lockPath(runDir string) string     { return filepath.Join(runDir, "lock") }
func exitPath(runDir string) string     { return filepath.Join(runDir, "exit.json") }
func qemuLogPath(runDir string) string  { return filepath.Join(runDir, "qemu.log") }
func logPath(homeDir string) string     { return filepath.Join(homeDir, "stdio.log") }
func ConsolePath(homeDir string) string { return filepath.Join(homeDir, "console.log") }
