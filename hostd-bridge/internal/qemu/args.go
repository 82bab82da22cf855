package qemu

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/supervisor"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// Accelerators.
const (
	accelKVM = "kvm"
	accelTCG = "tcg"
)

// consoleArgs begin every kernel command line. A guest without ACPI powers off by a reset, which QEMU's -no-reboot
// turns into its end, so a panic must reset at once, and it must do so by a triple fault: there is no keyboard
// controller on a microvm.
const consoleArgs = "console=ttyS0 quiet panic=-1 reboot=t rootfstype=ramfs"

// platform is what differs between machine types.
type platform struct {
	machine string
	bus     string // suffix of virtio device models
	cmdline string
	extra   string // properties of each virtio device
}

func platformOf(machine string) (platform, error) {
	switch machine {
	case "", hostapi.MachineMicroVM:
		// ACPI hangs in TSC calibration under TCG, and is not needed: the command line tells the kernel its devices.
		return platform{machine: "microvm,acpi=off,rtc=on", bus: "device", cmdline: "pci=off acpi=off"}, nil
	case hostapi.MachineQ35:
		return platform{machine: "q35,i8042=off,hpet=off,sata=off,smbus=off,vmport=off", bus: "pci", extra: ",romfile="}, nil
	}
	return platform{}, fmt.Errorf("cannot build machine type %q: it is %s or %s", machine, hostapi.MachineMicroVM, hostapi.MachineQ35)
}

// host is what the arguments depend on beside the machine.
type host struct {
	accel       string
	kernelVsock bool
	tscKHz      uint64 // rate of the time stamp counter; 0: unknown
	capture     bool   // see Config.Capture
	debugGuest  bool   // see Config.DebugGuest
}

// shape is what a machine's QEMU has to know when it starts: all but the machine's identity.
type shape struct {
	cpus, memoryMiB int
	machine         string // hostapi.MachineMicroVM (also when empty) or hostapi.MachineQ35
	cid             uint32
	nics            []vm.NIC // by slot, cardSlots at most; those that are not named are spare
	name, uuid      string   // for people; a child has none yet
	boot            *boot    // nil: a child
}

// boot is what a machine that is booted starts with.
type boot struct{ cmdline string }

// arguments is QEMU's command line without the program's name. The CPUs do not run, and the root slot is empty.
func arguments(s shape, h host) ([]string, error) {
	p, err := platformOf(s.machine)
	if err != nil {
		return nil, err
	}
	a := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-S",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-machine", p.machine + ",memory-backend=ram,suppress-vmdesc=on",
		"-accel", accelerator(h.accel),
		"-cpu", cpu(h.accel),
		"-smp", smp(max(1, s.cpus), h.accel),
		"-m", fmt.Sprintf("%dM", s.memoryMiB),
		"-object", fmt.Sprintf("memory-backend-file,id=ram,size=%dM,mem-path=/proc/self/fd/%d,share=%s",
			s.memoryMiB, supervisor.RAMFD, onOff(s.boot != nil)),
		"-chardev", fmt.Sprintf("socket,id=console,fd=%d", supervisor.ConsoleFD), "-serial", "chardev:console",
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", supervisor.QMPFD), "-mon", "chardev=qmp,mode=control",
	}
	a = append(a, originArgs(s, h, p)...)
	a = append(a, rootArgs(p)...)
	for slot := range cardSlots {
		mac := placeholderMAC(slot)
		if slot < len(s.nics) && s.nics[slot].MAC != "" {
			mac = s.nics[slot].MAC
		}
		a = append(a, nicArgs(slot, mac, p)...)
		if h.capture {
			a = append(a, captureArgs(slot)...)
		}
	}
	return append(a,
		"-device", fmt.Sprintf("virtio-scsi-%s,id=%s,num_queues=1%s", p.bus, supervisor.SCSIBus, p.extra),
		"-device", vsockDevice(s.cid, p, h.kernelVsock),
		"-object", "rng-builtin,id=rng",
		"-device", "virtio-rng-"+p.bus+",rng=rng"+p.extra), nil
}

// originArgs say where the machine begins: at a kernel, or where its template stands. A child loads a state without the section
// that names its machine type, which xen-save-devices-state does not write.
func originArgs(s shape, h host, p platform) []string {
	if s.boot == nil {
		return []string{"-incoming", "defer", "-global", "migration.send-configuration=off"}
	}
	return []string{
		"-name", "guest=" + comma(s.name) + ",debug-threads=on", "-uuid", s.uuid,
		"-kernel", fmt.Sprintf("/proc/self/fd/%d", supervisor.KernelFD), "-initrd", fmt.Sprintf("/proc/self/fd/%d", supervisor.InitrdFD),
		"-append", strings.Join(strings.Fields(consoleArgs+" "+p.cmdline+" "+timing(s, h)+" "+guestLog(h)+" "+s.boot.cmdline), " "),
	}
}

// guestLog is the tether's word for the level of its log (boot.LogKey).
func guestLog(h host) string {
	if h.debugGuest {
		return "cvm.log=debug"
	}
	return ""
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// accelerator is the value of -accel, with a bound of what QEMU keeps of translated code.
func accelerator(accel string) string {
	if accel == accelTCG {
		return fmt.Sprintf("%s,tb-size=%d", accel, translations>>20) // MiB
	}
	return accel
}

// cpu is the CPU model. TCG executes string moves byte by byte, and Linux prefers them when the CPU claims that they
// are fast: without the two flags copies run at twice to four times the speed.
func cpu(accel string) string {
	if accel == accelKVM {
		return "host"
	}
	return "max,-erms,-fsrm"
}

// smp is the number of processors. For a machine that can never have a second one QEMU 7.2 translates the guest's memory barriers into
// nothing (tcg_gen_mb without CF_PARALLEL), though the devices are threads and processes beside it: notifications between them
// and the guest's drivers are then lost now and then, and both wait for ever.
func smp(cpus int, accel string) string {
	if cpus == 1 && accel == accelTCG {
		return "1,maxcpus=2"
	}
	return fmt.Sprint(cpus)
}

// timing are the words of the kernel's command line that spare an emulated guest to find out what its timers are; its
// tests of them fail on a busy host, and without a known TSC its clock loses time. Under KVM the guest has kvm-clock.
func timing(s shape, h host) string {
	if h.accel != accelTCG {
		return ""
	}
	// Go's runtime signals a thread whose goroutine has run for 10 ms. Emulated code that is executed for the first time takes
	// that long.
	words := "no_timer_check GODEBUG=asyncpreemptoff=1"
	if s.cpus <= 1 {
		words += " noreplace-smp nolapic_timer"
	}
	if h.tscKHz > 0 {
		words += fmt.Sprintf(" tsc=reliable tsc_early_khz=%d", h.tscKHz)
	}
	return words
}

// rootNode is the block node in the root slot at the start.
const rootNode = "slot0"

// rootArgs are the root slot: a raw node, which QMP can reopen on another file while the guest runs, on a placeholder.
func rootArgs(p platform) []string {
	return []string{
		"-blockdev", blockdev(supervisor.EmptyOptions(rootNode, hostapi.DiskBytes)),
		"-blockdev", blockdev(supervisor.SlotOptions(rootNode)),
		// An error of the host's disk, such as a full one, is the guest's to handle: QEMU would stop the machine at it.
		"-device", "virtio-blk-" + p.bus + ",drive=" + supervisor.RootSlot + ",serial=root,werror=report,rerror=report" + p.extra,
	}
}

func blockdev(options map[string]any) string {
	b, err := json.Marshal(options)
	if err != nil {
		panic(err) // of strings, numbers and maps of them
	}
	return string(b)
}

// cardSlots is how many network cards each machine has, spare ones included: they cannot be plugged into a microvm later.
const cardSlots = hostapi.MaxCards

// nicArgs are a network card whose other end is the supervisor's (package frames has the format). The guest is not asked to announce
// itself after its state was loaded: QEMU 7.2 frees the timer for that when a state without a round of announcements is loaded, and a
// later reset of the card, as when its driver is unbound, dereferences it (virtio_net_reset, timer_del).
func nicArgs(slot int, mac string, p platform) []string {
	return []string{
		"-netdev", fmt.Sprintf("stream,id=net%d,server=off,addr.type=fd,addr.str=%d", slot, supervisor.CardFD+slot),
		"-device", fmt.Sprintf("virtio-net-%s,id=%s,netdev=net%d,mac=%s,guest_announce=off%s", p.bus, cardID(slot), slot, mac, p.extra),
	}
}

// placeholderMAC is the address of a spare card, and of a child's before its state is loaded: locally administered (IEEE 802, 8.4).
// No frame ever carries it.
func placeholderMAC(slot int) string { return fmt.Sprintf("02:00:00:00:00:%02x", slot) }

// captureArgs write down what passes between a card and its supervisor, in the format of pcap-savefile(5).
func captureArgs(i int) []string {
	return []string{"-object", fmt.Sprintf("filter-dump,id=dump%[1]d,netdev=net%[1]d,file=/proc/self/fd/%[2]d", i, supervisor.CardFD+cardSlots+i)}
}

func cardID(i int) string { return fmt.Sprintf("nic%d", i) }

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
