package qemu

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containervm/containervm/hostd-bridge/internal/supervisor"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// DiskBytes is the virtual size of every disk and of the placeholder in an empty root slot.
const DiskBytes = 64 << 30

// Accelerators.
const (
	accelKVM = "kvm"
	accelTCG = "tcg"
)

// consoleArgs begin every kernel command line. A guest without ACPI powers off by a reset, which QEMU's -no-reboot
// turns into its end, so a panic must reset at once, and it must do so by a triple fault: there is no keyboard
// controller on a microvm.
const consoleArgs = "console=ttyS0 quiet panic=-1 reboot=t"

// platform is what differs between machine types.
type platform struct {
	machine string
	bus     string // suffix of virtio device models
	cmdline string
	extra   string // properties of each virtio device
}

func platformOf(machine string) (platform, error) {
	switch machine {
	case "", vm.MachineMicroVM:
		// ACPI hangs in TSC calibration under TCG, and is not needed: the command line tells the kernel its devices.
		return platform{machine: "microvm,acpi=off,rtc=on", bus: "device", cmdline: "pci=off acpi=off"}, nil
	case vm.MachineQ35:
		return platform{machine: "q35,i8042=off,hpet=off,sata=off,smbus=off,vmport=off", bus: "pci", extra: ",romfile="}, nil
	}
	return platform{}, fmt.Errorf("cannot build machine type %q: it is %s or %s", machine, vm.MachineMicroVM, vm.MachineQ35)
}

// host is what the arguments depend on beside the machine.
type host struct {
	accel       string
	kernelVsock bool
	tscKHz      uint64 // rate of the time stamp counter; 0: unknown
}

// arguments is QEMU's command line without the program's name.
func arguments(s vm.MachineSpec, h host) ([]string, error) {
	p, err := platformOf(s.Machine)
	if err != nil {
		return nil, err
	}
	a := []string{
		"-name", "guest=" + comma(s.Name) + ",debug-threads=on",
		"-uuid", s.UUID,
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-machine", p.machine + ",memory-backend=ram",
		"-accel", h.accel,
		"-cpu", cpu(h.accel),
		"-smp", fmt.Sprint(max(1, s.CPUs)),
		"-m", fmt.Sprintf("%dM", s.MemoryMiB),
		"-object", fmt.Sprintf("memory-backend-memfd,id=ram,size=%dM,share=off", s.MemoryMiB),
		"-kernel", s.Kernel, "-initrd", s.Initrd,
		"-append", strings.Join(strings.Fields(consoleArgs+" "+p.cmdline+" "+timing(s, h)+" "+s.Cmdline), " "),
		"-chardev", "file,id=console,append=on,path=" + comma(supervisor.ConsolePath(s.HomeDir)), "-serial", "chardev:console",
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", supervisor.QMPFD), "-mon", "chardev=qmp,mode=control",
	}
	a = append(a, rootArgs(s, p)...)
	for i, n := range s.NICs {
		a = append(a, nicArgs(i, n, p)...)
	}
	return append(a,
		"-device", vsockDevice(s.CID, p, h.kernelVsock),
		"-object", "rng-random,id=rng,filename=/dev/urandom",
		"-device", "virtio-rng-"+p.bus+",rng=rng"+p.extra), nil
}

// cpu is the CPU model. TCG executes string moves byte by byte, and Linux prefers them when the CPU claims that they
// are fast: without the two flags copies run at twice to four times the speed.
func cpu(accel string) string {
	if accel == accelKVM {
		return "host"
	}
	return "max,-erms,-fsrm"
}

// timing are the words of the kernel's command line that spare an emulated guest to find out what its timers are; its
// tests of them fail on a busy host, and without a known TSC its clock loses time. KVM tells it by kvm-clock.
func timing(s vm.MachineSpec, h host) string {
	if h.accel != accelTCG {
		return ""
	}
	words := "no_timer_check"
	if s.CPUs <= 1 {
		words += " noreplace-smp nolapic_timer"
	}
	if h.tscKHz > 0 {
		words += fmt.Sprintf(" tsc=reliable tsc_early_khz=%d", h.tscKHz)
	}
	return words
}

// rootNode is the block node in the root slot at the start.
const rootNode = "slot0"

// rootArgs are the root slot: a raw node, which QMP can reopen on another file while the guest runs.
func rootArgs(s vm.MachineSpec, p platform) []string {
	node := supervisor.EmptyOptions(rootNode, DiskBytes)
	if s.RootDisk != "" {
		node = supervisor.DiskOptions(rootNode, s.RootDisk)
	}
	return []string{
		"-blockdev", blockdev(node),
		"-blockdev", blockdev(supervisor.SlotOptions(rootNode)),
		"-device", "virtio-blk-" + p.bus + ",drive=" + supervisor.RootSlot + ",serial=root" + p.extra,
	}
}

func blockdev(options map[string]any) string {
	b, err := json.Marshal(options)
	if err != nil {
		panic(err) // of strings, numbers and maps of them
	}
	return string(b)
}

// nicArgs are a network card on QEMU's user network, or on nothing.
func nicArgs(i int, n vm.NIC, p platform) []string {
	card := fmt.Sprintf("virtio-net-%s,id=nic%d,mac=%s%s", p.bus, i, n.MAC, p.extra)
	if !n.Connected {
		return []string{"-device", card}
	}
	return []string{"-netdev", fmt.Sprintf("user,id=net%d", i), "-device", fmt.Sprintf("%s,netdev=net%d", card, i)}
}

// vsockDevice is the vsock device. Without the kernel's vhost its descriptor stands for it, and the ring features that
// package vsock does not have are off.
func vsockDevice(cid uint32, p platform, kernel bool) string {
	d := fmt.Sprintf("vhost-vsock-%s,guest-cid=%d%s", p.bus, cid, p.extra)
	if !kernel {
		d += fmt.Sprintf(",vhostfd=%d,indirect_desc=off,event_idx=off,notify_on_empty=off", supervisor.VhostFD)
	}
	return d
}

// comma doubles commas, as QEMU's option syntax wants them in values.
func comma(value string) string { return strings.ReplaceAll(value, ",", ",,") }
