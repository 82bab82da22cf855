package vm

import (
	"crypto/rand"
	"fmt"
	"path"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// checkConfig completes a new VM's configuration or says what is wrong with it.
func (i *Inventory) checkConfig(c *Config) error {
	if !validName(c.Name) {
		return &InvalidNameError{Name: c.Name}
	}
	if err := i.checkSize(c); err != nil {
		return err
	}
	if c.UUID == "" {
		c.UUID = newUUID()
	}
	if c.InstanceUUID == "" {
		c.InstanceUUID = newUUID()
	}
	for _, id := range []*string{&c.UUID, &c.InstanceUUID} {
		if !validUUID.MatchString(*id) {
			return &ArgumentError{Property: "uuid", Why: fmt.Sprintf("%q is no UUID", *id)}
		}
		*id = strings.ToLower(*id)
	}
	c.Home = strings.Trim(path.Clean("/"+c.Home), "/")
	c.Created = time.Now().UTC()
	c.Modified, c.Version = c.Created, 1
	return checkExtra(c.Extra)
}

// checkSize checks the CPUs and memory: no VM has more than its host, as on ESXi.
func (i *Inventory) checkSize(c *Config) error {
	cpus := min(maxCPUs, i.opt.HostCPUs)
	switch {
	case c.CPUs < 1 || c.CPUs > cpus:
		return &ArgumentError{Property: "numCPUs", Why: fmt.Sprintf("%d, must be 1 to %d: the host has %d CPUs", c.CPUs, cpus, i.opt.HostCPUs)}
	case c.MemoryMiB < minMemoryMiB:
		return &ArgumentError{Property: "memoryMB", Why: fmt.Sprintf("%d, must be at least %d", c.MemoryMiB, minMemoryMiB)}
	case int64(c.MemoryMiB) > i.opt.HostMemoryMiB:
		return &MemoryError{Where: "the host", Requested: int64(c.MemoryMiB), Available: i.opt.HostMemoryMiB}
	}
	return nil
}

// checkExtra bounds extraConfig: a key is 1 to 255 printable characters, a value at most 512 KiB (half of a guestinfo
// message), and the machine type is a known one.
func checkExtra(extra map[string]string) error {
	for k, v := range extra {
		switch {
		case k == "" || len(k) > hostapi.MaxExtraKey || strings.ContainsFunc(k, unicode.IsControl):
			return &ArgumentError{Property: "extraConfig", Why: fmt.Sprintf("key %.64q is no key", k)}
		case len(v) > hostapi.MaxExtraValue:
			return &ArgumentError{Property: "extraConfig", Why: fmt.Sprintf("the value of %s is longer than 512 KiB", k)}
		case hostapi.SetByHost(k):
			return &ArgumentError{Property: "extraConfig", Why: k + " is set by the host alone"}
		case k == hostapi.KeyMachine && v != "" && v != hostapi.MachineMicroVM && v != hostapi.MachineQ35:
			return &ArgumentError{Property: "extraConfig " + k, Why: fmt.Sprintf("%q is neither %s nor %s", v, hostapi.MachineMicroVM, hostapi.MachineQ35)}
		}
	}
	return nil
}

// validName says whether a name can be an object's: vSphere's limit is 80 characters, and / is not in a path's element.
func validName(name string) bool {
	return name != "" && name != "." && name != ".." && utf8.ValidString(name) && utf8.RuneCountInString(name) <= 80 &&
		!strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r == '\\' || unicode.IsControl(r) })
}

// newUUID returns a random UUID, version 4 of RFC 9562.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
