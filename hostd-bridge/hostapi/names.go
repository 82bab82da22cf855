// Package hostapi is the contract between hostd-bridge and its clients, as far as vSphere's API does not have it: keys of
// extraConfig, names of files, routes below /cvm/ with their JSON, and limits. It is the only package of hostd-bridge that
// the controller imports, as tether/link is the only one of the guest.
//
// spec.md beside this file is the contract in prose. Package hostclient is a client, package hostapitest a fake host.
package hostapi

import (
	"fmt"
	"strings"
)

// Vendor is what a host that keeps this contract gives as its hardware's vendor (HostSystem, summary.hardware.vendor); the model
// beside it says for people what runs the machines, and why.
const Vendor = "containerVM"

// Keys of extraConfig that the client sets and the host reads.
const (
	// KeyKernel and KeyInitrd hold the datastore paths ("[local] dir/file") of the kernel and the initramfs that a VM boots.
	KeyKernel = "cvm.boot.kernel"
	KeyInitrd = "cvm.boot.initrd"
	// KeyCmdline holds words that are added to the kernel's command line.
	KeyCmdline = "cvm.boot.cmdline"
	// KeyMachine holds the type of the machine: MachineMicroVM (also when it is absent) or MachineQ35.
	KeyMachine = "cvm.machine"
	// KeyNet holds what the VM is in its networks, as JSON: Net. A power-on, and a change of it while the VM is on, fail with
	// ResourceInUse when a port that it publishes is taken.
	KeyNet = "cvm.net"
	// KeyLog holds how much of the VM's output the host keeps, as JSON: Log. A change of it while the VM is on holds from then on.
	KeyLog = "cvm.log"
)

// Values of KeyMachine: QEMU's names of its machine types.
const (
	MachineMicroVM = "microvm"
	MachineQ35     = "q35"
)

// Keys of extraConfig that the host alone sets. All of them, and the keys below GuestPrefix that the guest has set, belong to
// the run that KeyRun names.
const (
	// KeyRun holds the number of the VM's present or last run, in decimal; absent before the first. It changes in the update
	// in which what the guest said in the run before disappears; the VM may be off until its machine runs, without KeyExit.
	KeyRun = "cvm.host.run"
	// KeyExit holds the Exit of the last run as JSON; absent while a run lasts.
	KeyExit = "cvm.host.exit"
	// KeyTimeline holds the host's marks of the present or last run as JSON: an array of Mark.
	KeyTimeline = "cvm.host.timeline"
	// KeyPublished holds the ports that are published now, as JSON: an array of Publication in the order of Net.Publish, with the ports
	// that the host chose. Absent while there are none: always when the VM is off.
	KeyPublished = "cvm.host.published"
)

const (
	// GuestPrefix begins the keys of extraConfig that the guest may read, and set for the length of a run.
	GuestPrefix = "guestinfo."
	// ownPrefix begins the keys that containerVM gave a meaning to.
	ownPrefix = "cvm."
)

// SetByHost reports whether the host refuses a client that sets the key.
func SetByHost(key string) bool {
	return key == KeyRun || key == KeyExit || key == KeyTimeline || key == KeyPublished
}

// Inherited reports whether an instant clone has the key of its source. It does not have what says what the source is for, what
// its guest reads or has said, and how its runs went: a client sets those keys for each VM. A vCenter's clone inherits all
// keys, so there a client deletes those that are not inherited here.
func Inherited(key string) bool {
	switch key {
	case KeyKernel, KeyInitrd, KeyCmdline, KeyMachine:
		return true
	}
	return !strings.HasPrefix(key, GuestPrefix) && !strings.HasPrefix(key, ownPrefix)
}

// VolumesDir is the directory in the datastore of disks that belong to no VM, which clients make and remove. It is no VM's home. Disks in it
// can be forked with the VM that writes to them: kept disks that they are deltas of stay as long as they do.
const VolumesDir = "cvm-volumes"

// Names of files in a VM's directory.
const (
	// RootDisk is the disk in a VM's root slot, where the VM has made it itself.
	RootDisk = "root.vmdk"
	// LogFile holds the output of the main process of all runs as records of package tether/link; LogFileAt names the files after it.
	LogFile = "stdio.log"
	// ConsoleFile holds the end of the output of the guest's console.
	ConsoleFile = "console.log"
)

// logFile is the form of the names of a log's files but for the first.
const logFile = "stdio-%020d.log"

// LogFileAt is the name of the file of a log that begins with an offset of it, 0 or more.
func LogFileAt(offset int64) string {
	if offset == 0 {
		return LogFile
	}
	return fmt.Sprintf(logFile, offset)
}

// LogOffset is the offset with which a file of a log begins, by its name; false: it is another file.
func LogOffset(name string) (offset int64, ok bool) {
	if name == LogFile {
		return 0, true
	}
	_, err := fmt.Sscanf(name, logFile, &offset)
	return offset, err == nil && offset > 0 && LogFileAt(offset) == name
}

// VolumeDisk is the name of the file, in a VM's directory, of the data disk with a unit number, where the VM has made it itself.
func VolumeDisk(unit int) string { return fmt.Sprintf("volume-%d.vmdk", unit) }

// Limits.
const (
	// DiskBytes is the virtual size of every disk that the host makes, if its parent has no other. Disks are thin: it costs nothing.
	DiskBytes = 64 << 30
	// MaxDiskBytes is the virtual size that a disk can be extended to.
	MaxDiskBytes = 4 << 40
	// InheritedLog is how much of its source's log a fork of a running VM has, in bytes at most: what people scroll back.
	InheritedLog = 4 << 20
	// MaxExtraKey and MaxExtraValue bound a key and a value of extraConfig, in bytes: a key is vSphere's 255 at most, a value half
	// of a guestinfo message.
	MaxExtraKey   = 255
	MaxExtraValue = 512 << 10
	// MaxExtra bounds all that clients set in a VM's extraConfig, in bytes of JSON: several of the largest values.
	MaxExtra = 8 << 20
	// MaxAnswer bounds a JSON answer below /cvm/, in bytes: that is some 10,000 machines.
	MaxAnswer = 1 << 20
	// MaxBootIndex bounds the file BootIndex, in bytes.
	MaxBootIndex = 64 << 10
)

// Types of what a HostSystem says of itself in summary.hardware.otherIdentifyingInfo.
const (
	IdentityJail  = "cvm.jail"  // how machines are kept from their host: "full", "user namespace" or "none"
	IdentityLacks = "cvm.lacks" // something of that which the host lacks, for people; any number of times
)
