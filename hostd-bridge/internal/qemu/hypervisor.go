// Package qemu realises virtual machines as QEMU processes: it implements vm.Hypervisor, vm.Machine and vm.Disks. Each
// machine has a supervisor process (package supervisor) that outlives the daemon.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/cgroup"
	"github.com/containervm/containervm/hostd-bridge/internal/frames"
	"github.com/containervm/containervm/hostd-bridge/internal/jail"
	"github.com/containervm/containervm/hostd-bridge/internal/plainfile"
	"github.com/containervm/containervm/hostd-bridge/internal/supervisor"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vsock"
	"github.com/containervm/containervm/internal/printable"
	"github.com/containervm/containervm/tether/link"
)

// Values of Config.VsockMode.
const (
	VsockKernel = "vhost" // the kernel's /dev/vhost-vsock
	VsockUser   = "user"  // the supervisor
)

// Config says how machines are made. The zero value finds out everything by itself, but for Supervisor and Log.
type Config struct {
	QEMU       string // path of qemu-system-x86_64; empty: looked up in PATH
	Supervisor string // path of cvm-supervisor; empty: beside the running program
	Datastore  string // directory that all disks, kernels and initramfs lie below
	Accel      string // "kvm" or "tcg"; empty: kvm when a trial shows that it works
	// TrialKernel is a kernel (vmlinux) that a trial of KVM boots; empty: the trial runs a few instructions of its own.
	TrialKernel string
	VsockMode   string // VsockKernel or VsockUser; empty: the kernel's when it is usable
	Capture     bool   // write what each network card sends and receives to nic<N>.pcap in the machine's run directory
	// DebugSupervisor and DebugGuest have debug records in each machine's supervisor.log and console. A child has what its
	// template was booted with in its console.
	DebugSupervisor, DebugGuest bool
	Log                         *slog.Logger
}

// Hypervisor starts and finds machines.
type Hypervisor struct {
	config      Config
	host        host
	description string
	groups      *cgroup.Host
	jail        *jail.Host
	configured  bool   // QEMU's program was named
	microvm     string // QEMU for machines of type microvm; empty: the same as for others
}

var (
	_ vm.Hypervisor = (*Hypervisor)(nil)
	_ vm.Disks      = (*Hypervisor)(nil)
)

// New looks for what it needs and tries KVM, once for this value.
func New(ctx context.Context, c Config) (*Hypervisor, error) {
	var err error
	named := c.QEMU != ""
	if c.QEMU, err = program(c.QEMU, "qemu-system-x86_64", "install it (Debian: apt-get install qemu-system-x86)"); err != nil {
		return nil, err
	}
	if c.Supervisor == "" {
		c.Supervisor = beside("cvm-supervisor")
	}
	if c.Supervisor, err = program(c.Supervisor, "cvm-supervisor", "build it (make build)"); err != nil {
		return nil, err
	}
	if c.Datastore == "" {
		return nil, errors.New("cannot make machines: no directory is named that disks lie below")
	}
	h := &Hypervisor{config: c, configured: named, host: host{capture: c.Capture, debugGuest: c.DebugGuest}}
	if err := h.setUpAccel(ctx); err != nil {
		return nil, err
	}
	if err := h.chooseVsock(); err != nil {
		return nil, err
	}
	h.groups = cgroup.New()
	for _, l := range cgroup.Controllers {
		if why := h.groups.Missing(l); why != nil {
			c.Log.Warn("machines are not limited in what they take of the host", "limit", l, "why", why)
		}
	}
	if err := h.makeJail(ctx); err != nil {
		return nil, err
	}
	c.Log.Info("machines run under "+h.description, "qemu", h.program(hostapi.MachineMicroVM))
	return h, nil
}

// makeJail finds out which jail this host can make.
func (h *Hypervisor) makeJail(ctx context.Context) (err error) {
	c := jail.Config{QEMU: []string{h.config.QEMU}, Supervisor: h.config.Supervisor}
	if h.microvm != "" && h.microvm != h.config.QEMU {
		c.QEMU = append(c.QEMU, h.microvm)
	}
	if h.host.accel == accelKVM {
		c.Devices = append(c.Devices, kvmDevice)
	}
	if h.host.kernelVsock {
		c.Devices = append(c.Devices, vsock.KernelDevice)
	}
	if h.jail, err = jail.New(ctx, c); err != nil {
		return fmt.Errorf("cannot make jails for machines: %w", err)
	}
	if level, why := h.jail.Level(); level != jail.Full {
		h.config.Log.Warn("the jail around machines is not the full one", "level", level, "why", why)
	}
	return nil
}

// program is the QEMU for a machine type.
func (h *Hypervisor) program(machine string) string {
	if h.microvm != "" && (machine == "" || machine == hostapi.MachineMicroVM) {
		return h.microvm
	}
	return h.config.QEMU
}

// Programs are the QEMUs of machines: of type microvm first, and of others if that is another.
func (h *Hypervisor) Programs() []string {
	if h.microvm == "" || h.microvm == h.config.QEMU {
		return []string{h.config.QEMU}
	}
	return []string{h.microvm, h.config.QEMU}
}

// Isolation implements vm.Hypervisor.
func (h *Hypervisor) Isolation() (level string, lacks []string) {
	if l, _ := h.jail.Level(); l != jail.Full {
		lacks = append(lacks, "the jail around machines is not the full one ("+h.jail.Describe()+")")
	}
	for _, c := range cgroup.Controllers {
		if why := h.groups.Missing(c); why != nil {
			lacks = append(lacks, fmt.Sprintf("machines have no limit of the host's %s (%v)", c, why))
		}
	}
	l, _ := h.jail.Level()
	return l.String(), lacks
}

// Jail makes jails for machines, and for switches.
func (h *Hypervisor) Jail() *jail.Host { return h.jail }

// Groups makes machines' control groups.
func (h *Hypervisor) Groups() *cgroup.Host { return h.groups }

// program finds an executable; its absolute path, for the supervisor has another directory.
func program(path, name, cure string) (string, error) {
	if path == "" {
		path = name
	}
	found, err := exec.LookPath(path)
	if err == nil {
		found, err = filepath.Abs(found)
	}
	if err != nil {
		return "", fmt.Errorf("cannot find %s: %w: %s", name, err, cure)
	}
	return found, nil
}

// beside is the path of a program in the directory of the running one.
func beside(name string) string {
	self, err := os.Executable()
	if err != nil {
		return name
	}
	return filepath.Join(filepath.Dir(self), name)
}

func (h *Hypervisor) chooseVsock() error {
	usable := vsock.KernelUsable()
	switch h.config.VsockMode {
	case VsockKernel:
		if usable != nil {
			return usable
		}
		h.host.kernelVsock = true
	case VsockUser:
	case "":
		h.host.kernelVsock = usable == nil
	default:
		return fmt.Errorf("cannot use vsock mode %q: it is %s or %s", h.config.VsockMode, VsockKernel, VsockUser)
	}
	if h.host.kernelVsock {
		h.config.Log.Info("vsock: the kernel's vhost-vsock")
	} else {
		h.config.Log.Info("vsock: the supervisors play the device", "why", usable)
	}
	return nil
}

// LimitsCPUs implements vm.Hypervisor.
func (h *Hypervisor) LimitsCPUs() error {
	if why := h.groups.Missing(cgroup.CPU); why != nil {
		return fmt.Errorf("cannot make control groups that limit CPU time: %w", why)
	}
	return nil
}

// Describe implements vm.Hypervisor.
func (h *Hypervisor) Describe() string { return h.description }

// Start implements vm.Hypervisor.
func (h *Hypervisor) Start(ctx context.Context, spec vm.MachineSpec) (vm.Machine, error) {
	if err := check(spec); err != nil {
		return nil, err
	}
	s := shape{
		cpus: spec.CPUs, memoryMiB: spec.MemoryMiB, machine: spec.Machine, cid: spec.CID, nics: spec.NICs, name: spec.Name, uuid: spec.UUID,
		boot: &boot{cmdline: spec.Cmdline},
	}
	kernel, err := h.openBoot(spec.Kernel)
	if err != nil {
		return nil, err
	}
	defer kernel.Close()
	initrd, err := h.openBoot(spec.Initrd)
	if err != nil {
		return nil, err
	}
	defer initrd.Close()
	p, cell, group, err := h.prestart(ctx, s, spec.RunDir, supervisor.Hardware{}, supervisor.Files{Kernel: kernel, Initrd: initrd})
	if err != nil {
		return nil, err
	}
	return h.begin(ctx, p, cell, group, spec)
}

// prestart starts a machine's QEMU, in a control group of its own. Its supervisor writes debug records when this process does.
func (h *Hypervisor) prestart(ctx context.Context, s shape, runDir string, has supervisor.Hardware, files supervisor.Files) (*supervisor.Prestarted, *jail.Cell, *cgroup.Group, error) {
	args, err := arguments(s, h.host)
	if err != nil {
		return nil, nil, nil, err
	}
	group, err := h.groups.Make(h.limits(s, files.RAM))
	if err != nil {
		return nil, nil, nil, err
	}
	cfg := supervisor.Config{
		QEMU: h.program(s.machine), Args: args, CID: s.cid, Kernel: h.host.kernelVsock,
		MemoryMiB: s.memoryMiB, Child: s.boot == nil, Hardware: has, RootNode: rootNode, EmptySize: hostapi.DiskBytes,
		Debug: h.config.DebugSupervisor, Capture: h.host.capture, Start: group.Start,
		Confined: jail.Supported() == nil, KVM: h.host.accel == accelKVM,
	}
	for slot := range cardSlots {
		cfg.Cards = append(cfg.Cards, cardID(slot))
	}
	cell, err := h.jail.NewCell(s.memoryMiB)
	if err != nil {
		return nil, nil, nil, errors.Join(err, group.Remove())
	}
	defer cell.Close() // the supervisor has it
	p, err := supervisor.Prestart(ctx, cell.Command(), runDir, cfg, files)
	if err != nil {
		return nil, nil, nil, errors.Join(err, group.Remove())
	}
	return p, cell, group, nil
}

// begin gives a prestarted machine its identity and lets it run. When it fails nothing is left of the machine.
func (h *Hypervisor) begin(ctx context.Context, p *supervisor.Prestarted, cell *jail.Cell, group *cgroup.Group, spec vm.MachineSpec) (vm.Machine, error) {
	id, err := h.identity(ctx, cell, spec)
	if err != nil {
		id.Close() // what was opened
		return nil, errors.Join(err, p.Close(), group.Remove())
	}
	defer id.Close()
	c, err := p.Begin(ctx, spec.RunDir, id)
	if err != nil {
		return nil, errors.Join(err, group.Remove())
	}
	m, err := h.newMachine(ctx, c, newJoiner(spec.Ref, c, spec.NICs, h.config.Log), group, spec.RunDir)
	if err != nil { // nobody would know of a machine that goes on
		return nil, errors.Join(err, c.Kill(context.WithoutCancel(ctx)), c.Close(), group.Remove())
	}
	if spec.CPULimit == 0 {
		return m, nil
	}
	if err := m.LimitCPUs(ctx, spec.CPULimit); err != nil {
		return nil, errors.Join(err, m.Kill(context.WithoutCancel(ctx)), m.Close())
	}
	return m, nil
}

// isLogFile reports whether a file of a machine's directory is its log's, which the machine goes on writing.
func isLogFile(name string) bool {
	_, is := hostapi.LogOffset(name)
	return is
}

// identity opens all that a machine gets with its identity. It returns what it has opened also when it fails.
func (h *Hypervisor) identity(ctx context.Context, cell *jail.Cell, spec vm.MachineSpec) (id supervisor.Identity, err error) {
	id = supervisor.Identity{Log: spec.Log, Run: spec.Run, Guestinfo: spec.Guestinfo}
	if id.Home, err = cell.Directory(spec.HomeDir, isLogFile); err != nil {
		return id, err
	}
	if id.Console, err = plainfile.Create(filepath.Join(spec.HomeDir, hostapi.ConsoleFile), 0o640); err != nil {
		return id, fmt.Errorf("cannot make the console's file: %w", err)
	}
	if spec.RootDisk != "" {
		if id.Root, err = h.image(spec.RootDisk, spec.Parent, false); err != nil {
			return id, err
		}
	}
	for _, d := range spec.DataDisks {
		image, err := h.image(d.Path, d.Parent, d.ReadOnly)
		if err != nil {
			return id, err
		}
		id.Disks = append(id.Disks, supervisor.Disk{Unit: d.Unit, Image: image, ReadOnly: d.ReadOnly})
	}
	if _, wanted := spec.Guestinfo[link.KeyRehearse]; wanted && spec.RootDisk == "" && spec.Blank != "" {
		if id.Rehearsal, err = h.rehearsal(spec); err != nil {
			return id, err
		}
	}
	for slot, nic := range spec.NICs {
		id.Cards = append(id.Cards, cardOf(nic))
		if conn := h.connect(ctx, spec.Ref, nic); conn != nil {
			id.Joined, id.Connections = append(id.Joined, slot), append(id.Connections, conn)
		}
	}
	return id, nil
}

// connect connects a card with its switch; nil: the card will ask for it.
func (h *Hypervisor) connect(ctx context.Context, ref string, nic vm.NIC) *os.File {
	if !leads(nic) {
		return nil
	}
	conn, err := frames.Dial(ctx, filepath.Dir(nic.Frames), frames.Hello{VM: ref, MAC: nic.MAC})
	if err != nil {
		h.config.Log.Debug("a card is not joined with its network yet", "vm", ref, "err", err)
		return nil
	}
	defer conn.Close()
	f, err := conn.File()
	if err != nil {
		return nil
	}
	return f
}

// rehearsal makes the disk of a rehearsal, which nobody finds by a name.
func (h *Hypervisor) rehearsal(spec vm.MachineSpec) (image supervisor.Image, err error) {
	path := filepath.Join(spec.HomeDir, "rehearsal.vmdk")
	if err := createDelta(path, spec.Blank); err != nil {
		return image, err
	}
	defer func() { err = errors.Join(err, os.Remove(path)) }()
	return h.image(path, spec.Blank, false)
}

// check refuses a machine that QEMU would refuse with an error that does not say what is wrong.
func check(s vm.MachineSpec) error {
	if s.MemoryMiB < 1 {
		return fmt.Errorf("cannot start a machine with %d MiB of memory", s.MemoryMiB)
	}
	for _, path := range []string{s.Kernel, s.Initrd, s.HomeDir, s.RunDir} {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("cannot start the machine: %w", err)
		}
	}
	return vsock.CheckCID(s.CID)
}

// Adopt implements vm.Hypervisor.
func (h *Hypervisor) Adopt(ctx context.Context, ref, runDir string) (vm.Machine, *vm.Exit, error) {
	c, err := supervisor.Connect(ctx, runDir)
	if err == nil {
		m, err := h.adopt(ctx, c, ref, runDir)
		if err == nil {
			return m, nil, nil
		}
		c.Close()
	}
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	exit, err := h.lastExit(ctx, runDir)
	return nil, exit, err
}

// adopt takes over a machine that an earlier daemon has started.
func (h *Hypervisor) adopt(ctx context.Context, c *supervisor.Client, ref, runDir string) (*machine, error) {
	pid, err := c.PID()
	if err != nil {
		return nil, err
	}
	group, err := h.groups.Find(pid)
	if err != nil { // that of a daemon which could make none, or of an older version
		h.config.Log.Warn("a machine goes on without limits", "runDir", runDir, "why", err)
		group = &cgroup.Group{}
	}
	return h.newMachine(ctx, c, newJoiner(ref, c, nil, h.config.Log), group, runDir)
}

// lastExit waits for the end of the processes in runDir and says how the machine ended.
func (h *Hypervisor) lastExit(ctx context.Context, runDir string) (*vm.Exit, error) {
	if !supervisor.Existed(runDir) {
		return &vm.Exit{At: time.Now().UTC(), Reason: "no machine was ever started in " + runDir}, nil
	}
	if err := supervisor.AwaitEnd(ctx, runDir); err != nil {
		return nil, fmt.Errorf("cannot wait for the end of the machine in %s: %w", runDir, err)
	}
	x, err := supervisor.LastReport(runDir)
	if errors.Is(err, os.ErrNotExist) {
		return &vm.Exit{At: time.Now().UTC(), Reason: "the machine's supervisor was killed or crashed, and QEMU ended with it"}, nil
	}
	if err != nil {
		return nil, err
	}
	return exitOf(x), nil
}

// maxExitText bounds what a machine's end has of its console, and of its reason, in bytes (hostapi.Exit).
const maxExitText = 4 << 10

// exitOf takes a supervisor's report. What is in it comes from a guest and from QEMU, and people read it, in the extraConfig too.
func exitOf(x *supervisor.Exit) *vm.Exit {
	return &vm.Exit{
		Run: x.Run, At: x.At, Orderly: x.Orderly, Reason: printable.Tail(x.Reason, maxExitText),
		ConsoleTail: printable.Tail(x.ConsoleTail, maxExitText), Guestinfo: x.Guestinfo,
	}
}
