package qemu

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/containervm/containervm/hostd-bridge/internal/cgroup"
	"github.com/containervm/containervm/hostd-bridge/internal/jail"
	"github.com/containervm/containervm/hostd-bridge/internal/supervisor"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vsock"
	"github.com/containervm/containervm/tether/link"
)

// template is a fork point: two sealed files in memory, and the devices that they are of.
type template struct {
	ram, state *os.File
	hardware   supervisor.Hardware
}

var _ vm.ForkPoint = (*template)(nil)

// MemoryMiB implements vm.ForkPoint.
func (t *template) MemoryMiB() int {
	st, err := t.ram.Stat()
	if err != nil {
		return 0
	}
	return int(st.Size() >> 20)
}

// ResidentMiB implements vm.ForkPoint.
func (t *template) ResidentMiB() int {
	var st unix.Stat_t
	if err := unix.Fstat(int(t.ram.Fd()), &st); err != nil {
		return 0
	}
	return int(st.Blocks * 512 >> 20)
}

// Close implements vm.ForkPoint.
func (t *template) Close() error { return errors.Join(t.ram.Close(), t.state.Close()) }

// ForkPoint implements vm.Machine.
func (m *machine) ForkPoint(ctx context.Context) (vm.ForkPoint, error) {
	p, err := m.Client.Template(ctx, supervisor.NewDisks{}) // the memory of a frozen machine is handed out as it is
	if err != nil {
		return nil, err
	}
	return &template{p.RAM, p.State, p.Hardware}, nil
}

// Snapshot implements vm.Machine. The copy of the memory is on the account of the machine, whose supervisor makes it: its limit grows by as much.
func (m *machine) Snapshot(ctx context.Context, to vm.NewDisks) (vm.ForkPoint, error) {
	disks, err := m.hypervisor.newDisks(to)
	if err != nil {
		disks.Close() // those that were opened
		return nil, err
	}
	defer disks.Close()
	copied, err := m.group.Copying(m.hypervisor.overhead())
	if err != nil {
		return nil, err
	}
	p, err := m.Client.Template(ctx, disks)
	if err != nil {
		return nil, errors.Join(err, copied(0))
	}
	t := &template{p.RAM, p.State, p.Hardware}
	if err := copied(int64(t.ResidentMiB()+1) << 20); err != nil { // the machine goes on with a limit that is too high
		m.log.Warn("a machine has more room than its limit", "runDir", m.runDir, "err", err)
	}
	return t, nil
}

// newDisks opens deltas. It returns what it has opened also when it fails.
func (h *Hypervisor) newDisks(to vm.NewDisks) (disks supervisor.NewDisks, err error) {
	if to.Root != "" {
		if disks.Root, err = h.delta(to.Root); err != nil {
			return disks, err
		}
	}
	disks.Data = map[int]supervisor.Image{}
	for unit, path := range to.Data {
		if disks.Data[unit], err = h.delta(path); err != nil {
			return disks, err
		}
	}
	return disks, nil
}

// child is a prestarted machine: a QEMU that waits for its template's state.
type child struct {
	h          *Hypervisor
	prestarted *supervisor.Prestarted
	cell       *jail.Cell
	group      *cgroup.Group
	runDir     string
}

var _ vm.Prestarted = (*child)(nil)

// Prestart implements vm.Hypervisor.
func (h *Hypervisor) Prestart(ctx context.Context, t vm.ForkPoint, spec vm.PrestartSpec) (vm.Prestarted, error) {
	of, ok := t.(*template)
	if !ok {
		return nil, fmt.Errorf("cannot make a child of a %T", t)
	}
	if of.MemoryMiB() != spec.MemoryMiB {
		return nil, fmt.Errorf("cannot make a child with %d MiB of a template with %d MiB", spec.MemoryMiB, of.MemoryMiB())
	}
	if err := vsock.CheckCID(spec.CID); err != nil {
		return nil, err
	}
	s := shape{cpus: spec.CPUs, memoryMiB: spec.MemoryMiB, machine: spec.Machine, cid: spec.CID}
	// All children of the template share the descriptor's offset: this one needs an offset of its own.
	state, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", of.state.Fd()))
	if err != nil {
		return nil, fmt.Errorf("cannot open the template's state: %w", err)
	}
	defer state.Close()
	p, cell, group, err := h.prestart(ctx, s, spec.RunDir, of.hardware, supervisor.Files{RAM: of.ram, State: state})
	if err != nil {
		return nil, err
	}
	return &child{h: h, prestarted: p, cell: cell, group: group, runDir: spec.RunDir}, nil
}

// Start implements vm.Prestarted.
func (c *child) Start(ctx context.Context, spec vm.MachineSpec) (vm.Machine, error) {
	if len(spec.NICs) > 0 {
		macs := make([]string, len(spec.NICs)) // by slot; empty where a card is spare
		for slot, n := range spec.NICs {
			macs[slot] = n.MAC
		}
		info := maps.Clone(spec.Guestinfo)
		if info == nil {
			info = map[string]string{}
		}
		info[link.KeyMACs] = strings.Join(macs, ",")
		spec.Guestinfo = info
	}
	return c.h.begin(ctx, c.prestarted, c.cell, c.group, spec)
}

// Close implements vm.Prestarted.
func (c *child) Close() error {
	if err := c.prestarted.Close(); err != nil {
		return err // the directory shows what is left
	}
	return errors.Join(c.group.Remove(), os.RemoveAll(c.runDir))
}
