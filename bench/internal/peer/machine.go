package peer

import (
	"fmt"
	"slices"
	"strings"
)

// Machine is a virtual machine of the benchmark: what all peers have in common.
type Machine struct {
	Program   string // QEMU
	Type      string // value of -machine, with its properties
	Accel     string
	CPU       string
	SMP       string
	MemoryMiB int
	Kernel    string
	Initrd    string
	Append    string
}

// Of takes the machine from the command line of a container's QEMU, so that peers have the same machine, accelerator and
// kernel command line, whatever those come to be. Initrd is the caller's.
func Of(commandLine []string) (Machine, error) {
	m := Machine{Program: commandLine[0]}
	for i := 1; i+1 < len(commandLine); i++ {
		switch flag, value := commandLine[i], commandLine[i+1]; flag {
		case "-accel":
			m.Accel = value
		case "-cpu":
			m.CPU = value
		case "-smp":
			m.SMP = value
		case "-m":
			if _, err := fmt.Sscanf(value, "%dM", &m.MemoryMiB); err != nil {
				return Machine{}, fmt.Errorf("cannot read memory of the container's machine %q: %w", value, err)
			}
		case "-kernel":
			m.Kernel = value
		case "-append":
			m.Append = value
		case "-machine":
			m.Type = without(value, "memory-backend")
		}
	}
	if m.Kernel == "" || m.Type == "" || m.MemoryMiB == 0 {
		return Machine{}, fmt.Errorf("cannot take the machine of %q: it was not booted", commandLine)
	}
	return m, nil
}

// Default is the machine of peers that have no container's to take it from.
func Default(accel, kernel string) Machine {
	m := Machine{
		Program: "qemu-system-x86_64", Type: "microvm,acpi=off,rtc=on", Accel: accel, CPU: "host", SMP: "1", MemoryMiB: 512, Kernel: kernel,
		Append: "console=ttyS0 quiet panic=-1 reboot=t pci=off acpi=off",
	}
	if accel == "tcg" { // which moves strings by the byte, and whose timers fail the kernel's tests on a busy machine
		m.CPU, m.Append = "max,-erms,-fsrm", m.Append+" no_timer_check noreplace-smp nolapic_timer"
	}
	return m
}

func without(properties, name string) string {
	return strings.Join(slices.DeleteFunc(strings.Split(properties, ","), func(p string) bool { return strings.HasPrefix(p, name+"=") }), ",")
}

// Q35 is the same machine with a PCI bus and firmware; it has no device that a guest of the benchmark could use.
func (m Machine) Q35() Machine {
	m.Type = "q35,i8042=off,hpet=off,sata=off,smbus=off,vmport=off"
	var words []string
	for _, w := range strings.Fields(m.Append) {
		if w != "pci=off" && w != "acpi=off" {
			words = append(words, w)
		}
	}
	m.Append = strings.Join(words, " ")
	return m
}

// Memory is the same machine with other memory.
func (m Machine) Memory(mib int) Machine {
	m.MemoryMiB = mib
	return m
}

// ram is where a machine's memory is.
type ram struct {
	path   string // a file; empty: anonymous memory
	shared bool   // writes go to the file
}

// arguments are QEMU's. boots: it loads the kernel; a machine whose state comes from elsewhere needs none, which saves
// memory and time.
func (m Machine) arguments(r ram, boots bool, extra ...string) []string {
	machine := m.Type
	a := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-accel", m.Accel, "-cpu", m.CPU, "-smp", m.SMP, "-m", fmt.Sprintf("%dM", m.MemoryMiB),
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", qmpFD), "-mon", "chardev=qmp,mode=control",
		"-chardev", fmt.Sprintf("socket,id=serial,fd=%d", serialFD), "-serial", "chardev:serial",
	}
	if r.path != "" {
		share := "off"
		if r.shared {
			share = "on"
		}
		a = append(a, "-object", fmt.Sprintf("memory-backend-file,id=ram,size=%dM,mem-path=%s,share=%s", m.MemoryMiB, r.path, share))
		machine += ",memory-backend=ram"
	}
	a = append(a, "-machine", machine)
	if boots {
		a = append(a, "-kernel", m.Kernel, "-initrd", m.Initrd, "-append", m.Append)
	}
	return append(a, extra...)
}
