package vm

import (
	"crypto/rand"
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

const (
	// minMemoryMiB and maxCPUs bound what a VM may have: less memory boots no kernel, more CPUs QEMU's machines refuse.
	minMemoryMiB = 4
	maxCPUs      = 255
	// minCPULimit is the least limit of CPU time, in MHz: a hundredth of a CPU, of which a control group can have no less.
	minCPULimit = NominalMHz / 100
	// maxName is vSphere's limit of an object's name, in characters.
	maxName = 80
)

// validUUID is the textual form of RFC 9562, section 4.
var validUUID = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// NominalMHz stands for the clock of the host's CPUs, whose number counts: vSphere gives limits of CPU time in MHz.
const NominalMHz = 2000

// Capacity is what a host has: no VM has more, as on ESXi.
type Capacity struct {
	CPUs      int
	MemoryMiB int64
	// NoCPULimit is why the host cannot limit the CPU time of a VM; nil: it can.
	NoCPULimit error
}

// Complete completes the configuration of a new VM or says what is wrong with it.
func (c *Config) Complete(host Capacity) error {
	if err := CheckName(c.Name); err != nil {
		return err
	}
	if err := c.CheckSize(host); err != nil {
		return err
	}
	for _, id := range []*string{&c.UUID, &c.InstanceUUID} {
		if *id == "" {
			*id = newUUID()
		}
		if err := CheckUUID(*id); err != nil {
			return err
		}
		*id = strings.ToLower(*id)
	}
	if err := c.completeCards(); err != nil {
		return err
	}
	c.Home = strings.Trim(path.Clean("/"+c.Home), "/")
	c.Created = time.Now().UTC()
	c.Modified, c.Version = c.Created, 1
	if err := CheckExtra(c.Extra); err != nil {
		return err
	}
	return CheckExtraSize(c.Extra)
}

// CheckSize checks the CPUs, their limit, and the memory.
func (c *Config) CheckSize(host Capacity) error {
	cpus := min(maxCPUs, host.CPUs)
	switch {
	case c.CPUs < 1 || c.CPUs > cpus:
		return &ArgumentError{Property: "numCPUs", Why: fmt.Sprintf("%d, must be 1 to %d: the host has %d CPUs", c.CPUs, cpus, host.CPUs)}
	case c.CPULimit != 0 && c.CPULimit < minCPULimit:
		return &ArgumentError{Property: "cpuAllocation.limit", Why: fmt.Sprintf("%d MHz, must be -1 (none) or at least %d", c.CPULimit, minCPULimit)}
	case c.CPULimit != 0 && host.NoCPULimit != nil:
		return &ArgumentError{Property: "cpuAllocation.limit", Why: host.NoCPULimit.Error()}
	case c.MemoryMiB < minMemoryMiB:
		return &ArgumentError{Property: "memoryMB", Why: fmt.Sprintf("%d, must be at least %d", c.MemoryMiB, minMemoryMiB)}
	case int64(c.MemoryMiB) > host.MemoryMiB:
		return &MemoryError{Where: "the host", Requested: int64(c.MemoryMiB), Available: host.MemoryMiB}
	}
	return nil
}

// CheckUUID checks the text of a UUID.
func CheckUUID(id string) error {
	if !validUUID.MatchString(id) {
		return &ArgumentError{Property: "uuid", Why: fmt.Sprintf("%q is no UUID", id)}
	}
	return nil
}

// CheckExtra bounds extraConfig: a key is 1 to hostapi.MaxExtraKey printable characters, a value at most
// hostapi.MaxExtraValue bytes, the machine type is a known one, and what
// the VM is in its networks can be read.
func CheckExtra(extra map[string]string) error {
	for k, v := range extra {
		switch {
		case k == "" || len(k) > hostapi.MaxExtraKey || strings.ContainsFunc(k, unicode.IsControl):
			return &ArgumentError{Property: "extraConfig", Why: fmt.Sprintf("key %.64q is no key", k)}
		case len(v) > hostapi.MaxExtraValue:
			return &ArgumentError{Property: "extraConfig", Why: fmt.Sprintf("the value of %s is longer than %d KiB", k, hostapi.MaxExtraValue>>10)}
		case hostapi.SetByHost(k):
			return &ArgumentError{Property: "extraConfig", Why: k + " is set by the host alone"}
		case k == hostapi.KeyMachine && v != "" && v != hostapi.MachineMicroVM && v != hostapi.MachineQ35:
			return &ArgumentError{Property: "extraConfig " + k, Why: fmt.Sprintf("%q is neither %s nor %s", v, hostapi.MachineMicroVM, hostapi.MachineQ35)}
		case k == hostapi.KeyLog:
			if _, err := hostapi.DecodeLog(v); err != nil {
				return &ArgumentError{Property: "extraConfig " + k, Why: err.Error()}
			}
		case k == hostapi.KeyNet && v != "":
			if _, err := hostapi.DecodeNet(v); err != nil {
				return &ArgumentError{Property: "extraConfig " + k, Why: err.Error()}
			}
		}
	}
	return nil
}

// CheckExtraSize bounds all of a VM's extraConfig together, as it is written down: hostapi.MaxExtra bytes of JSON. So a record of a VM always
// fits the journal, whatever its guest adds, and it can always be renamed, ended and destroyed.
func CheckExtraSize(extra map[string]string) error {
	if n := len(text(extra)); n > hostapi.MaxExtra {
		return &ArgumentError{Property: "extraConfig", Why: fmt.Sprintf("all of it has %d bytes as JSON, at most %d KiB are possible", n, hostapi.MaxExtra>>10)}
	}
	return nil
}

// CheckName checks an object's name: / is not in a path's element.
func CheckName(name string) error {
	if name == "" || name == "." || name == ".." || !utf8.ValidString(name) || utf8.RuneCountInString(name) > maxName ||
		strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r == '\\' || unicode.IsControl(r) }) {
		return &InvalidNameError{Name: name}
	}
	return nil
}

// newUUID returns a random UUID, version 4 of RFC 9562.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
