package template

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/containervm/containervm/controller/internal/record"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/tether/link"
)

// namePrefix begins the names of templates.
const namePrefix = "cvm-template-"

// Size is a machine's size.
type Size struct{ CPUs, MemoryMiB int }

func (s Size) String() string {
	if s.CPUs == 1 {
		return fmt.Sprintf("%d MiB and 1 CPU", s.MemoryMiB)
	}
	return fmt.Sprintf("%d MiB and %d CPUs", s.MemoryMiB, s.CPUs)
}

// inputs are all that decides what a template is: another value of any makes another template.
type inputs struct {
	Kernel    string `json:"kernel"` // datastore paths, which hold a hash of the content
	Initrd    string `json:"initrd"`
	MemoryMiB int    `json:"memoryMiB"`
	CPUs      int    `json:"cpus"`
}

// name of the template's VM. It is made of the inputs, so that two controllers cannot make the same one twice.
func (in inputs) name() string {
	text, _ := json.Marshal(in) // cannot fail: strings and numbers
	sum := sha256.Sum256(text)
	return namePrefix + hex.EncodeToString(sum[:6])
}

// uuid is the BIOS UUID of the template's VM.
func (in inputs) uuid() string {
	sum := sha256.Sum256([]byte(in.name()))
	h := hex.EncodeToString(sum[:16])
	return fmt.Sprintf("%s-%s-%s-%s-%s", h[:8], h[8:12], h[12:16], h[16:20], h[20:])
}

func (in inputs) size() Size { return Size{CPUs: in.CPUs, MemoryMiB: in.MemoryMiB} }

// saved is the value of record.KeyTemplate.
type saved struct {
	inputs
	Created time.Time `json:"created"`
}

// States of a template.
const (
	StateFrozen = "frozen"
	StateMaking = "being made"
	StateEnded  = "ended" // its machine is off: it is of no use any more
)

// Template is what is known of a template at one moment.
type Template struct {
	Name           string
	VM             vsphere.VM // zero while it is only planned
	Size           Size
	Kernel, Initrd string
	Version        string // of its tether
	State          string
	Created        time.Time
	Used           time.Time     // when it was leased last for a container, or made
	Children       int           // containers on the host that were forked from it
	Warm           int           // its warm VMs
	Forks          []vsphere.Ref // all of those
}

// parse reads a template from its VM; false: the VM is none, or its record is damaged.
func parse(vm vsphere.VM) (Template, bool) {
	if vm.Extra[record.KeyRole] != record.RoleTemplate {
		return Template{}, false
	}
	t := Template{Name: vm.Name, VM: vm, State: stateOf(vm), Version: vm.Extra[link.KeyVersion]}
	var rec saved
	err := json.Unmarshal([]byte(vm.Extra[record.KeyTemplate]), &rec)
	t.Size, t.Kernel, t.Initrd, t.Created = rec.size(), rec.Kernel, rec.Initrd, rec.Created
	return t, err == nil && rec.name() == vm.Name
}

func stateOf(vm vsphere.VM) string {
	switch {
	case vm.PowerState != vsphere.PoweredOn:
		return StateEnded
	case vm.Frozen:
		return StateFrozen
	default:
		return StateMaking
	}
}

// Source is the name of the VM that a VM was forked from; empty: it was not, or does not say.
func Source(vm vsphere.VM) string {
	fork, err := link.DecodeFork(vm.Extra[link.KeyFork])
	if err != nil {
		return ""
	}
	return fork.GetSource()
}
