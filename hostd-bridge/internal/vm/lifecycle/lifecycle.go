// Package lifecycle creates, powers, reconfigures and destroys VMs, follows their machines, and brings into order what an earlier
// daemon left.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/admission"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/disks"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/inventory"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/networks"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/prestart"
)

// Options is what a Lifecycle works with.
type Options struct {
	Inventory  *inventory.Inventory
	Admission  *admission.Admission
	Disks      *disks.Disks
	Prestart   *prestart.Pool
	Networks   *networks.Networks
	Store      *datastore.Store
	Hypervisor vm.Hypervisor
	Capacity   vm.Capacity
	RunDir     string           // as of vmhost.Options
	Blank      string           // as of vmhost.Options
	Observe    func(vm.Outcome) // is told of each power-on that has ended
	Log        *slog.Logger
}

// Lifecycle is what can be done to a VM by itself.
type Lifecycle struct {
	opt     Options
	watches sync.WaitGroup // one for each machine
	closing atomic.Bool
}

// New returns the life cycle of a host's VMs.
func New(opt Options) *Lifecycle { return &Lifecycle{opt: opt} }

// Create makes a VM that is off. config.Name, CPUs, MemoryMiB and Pool are needed; Home, UUIDs and MACs are chosen where
// they are empty, all else of Config that the host owns is ignored. root fills the root slot and may be nil, data are data disks.
func (l *Lifecycle) Create(ctx context.Context, config vm.Config, root *vm.DiskChange, data ...vm.DiskChange) (string, error) {
	config.Disk, config.DataDisks = nil, nil
	if err := config.Complete(l.opt.Capacity); err != nil {
		return "", err
	}
	e, release, err := l.opt.Inventory.Allocate(&vm.VM{Config: config, Power: vm.PoweredOff, InFlight: &vm.Operation{Kind: vm.OpCreate}}, 0)
	if err != nil {
		return "", err
	}
	defer release()
	v := e.VM()
	if err := l.build(ctx, e, vm.AllDisks(root, data)); err != nil {
		return "", errors.Join(fmt.Errorf("cannot create VM %s: %w", v.Name, err), l.RollBack(e))
	}
	return v.Ref, nil
}

// build makes the files of a VM that was allocated, and publishes it.
func (l *Lifecycle) build(ctx context.Context, e *inventory.Entry, changes []vm.DiskChange) error {
	if err := l.opt.Store.Mkdir(e.VM().Home, true); err != nil {
		return err
	}
	disks, err := l.opt.Disks.Plan(ctx, e, changes)
	if err != nil {
		return err
	}
	if err := l.opt.Disks.Make(ctx, disks); err != nil {
		return err
	}
	return e.Change(inventory.Synced, func(v *vm.VM) { v.InFlight = nil })
}

// RollBack undoes the making of a VM: it removes what the VM would have owned and its place in the inventory.
func (l *Lifecycle) RollBack(e *inventory.Entry) error {
	v := e.VM()
	if err := os.RemoveAll(l.RunDir(v.Ref)); err != nil {
		return err
	}
	if err := l.removeFiles(v); err != nil {
		return err
	}
	return l.forget(e, v)
}

func (l *Lifecycle) removeFiles(v *vm.VM) error {
	for _, rel := range v.Files() {
		if err := vm.RemoveFile(l.opt.Store, rel); err != nil {
			return err
		}
	}
	return nil
}

// forget removes a VM whose files are gone from the inventory, and what only its disk needed.
func (l *Lifecycle) forget(e *inventory.Entry, v *vm.VM) error {
	if err := e.Remove(); err != nil {
		return err
	}
	return l.opt.Disks.PruneOf(v)
}

// Destroy removes a VM that is off, with its home directory and the disk that it has made itself. A disk that it was
// only given, the parents of disks, and anything that another VM needs are never removed.
func (l *Lifecycle) Destroy(ctx context.Context, ref string) error {
	e, release, err := l.opt.Inventory.Acquire(ctx, ref)
	if err != nil {
		return err
	}
	defer release()
	v := e.VM()
	if v.Power != vm.PoweredOff {
		return &vm.StateError{Name: v.Name, Current: v.Power, Required: vm.PoweredOff}
	}
	for _, rel := range v.Files() {
		if user := l.opt.Disks.Dependant(rel, ref); user != "" {
			return &vm.InUseError{Name: v.Name, Why: "VM " + user + " needs its files"}
		}
	}
	if err := e.Change(inventory.Written, func(v *vm.VM) { v.InFlight = &vm.Operation{Kind: vm.OpDestroy} }); err != nil {
		return err
	}
	return l.finishDestroy(e)
}

func (l *Lifecycle) finishDestroy(e *inventory.Entry) error {
	v := e.VM()
	if err := l.removeFiles(v); err != nil {
		return errors.Join(fmt.Errorf("cannot destroy VM %s: %w", v.Name, err),
			e.Change(inventory.Written, func(v *vm.VM) { v.InFlight = nil }))
	}
	return l.forget(e, v)
}

// RunDir is the directory of a VM's running machine.
func (l *Lifecycle) RunDir(ref string) string { return filepath.Join(l.opt.RunDir, ref) }

// Identity is what of a VM its machine has to know, without what boots it.
func (l *Lifecycle) Identity(v *vm.VM) vm.MachineSpec {
	return vm.MachineSpec{
		Ref: v.Ref, Name: v.Name, UUID: v.UUID,
		RunDir: l.RunDir(v.Ref), HomeDir: l.opt.Store.HostPath(v.Home), Log: v.Log(),
		CPUs: v.CPUs, CPULimit: v.CPUShare(), MemoryMiB: v.MemoryMiB,
		Machine: v.Extra[hostapi.KeyMachine], Cmdline: v.Extra[hostapi.KeyCmdline], RootDisk: l.opt.Disks.HostPath(v), Parent: l.opt.Disks.ParentPath(v), DataDisks: l.opt.Disks.DataDisks(v),
		Blank: l.opt.Store.HostPath(l.opt.Blank), Run: v.Run, CID: v.CID, Guestinfo: vm.GuestKeys(v.Extra),
		NICs: v.Slots(l.opt.Networks.Socket),
	}
}

// bootSpec says how a VM boots, or what of it is missing.
func (l *Lifecycle) bootSpec(ctx context.Context, v *vm.VM) (vm.MachineSpec, error) {
	spec := l.Identity(v)
	var err error
	if spec.Kernel, err = l.bootFile(v, hostapi.KeyKernel); err != nil {
		return spec, err
	}
	if spec.Initrd, err = l.bootFile(v, hostapi.KeyInitrd); err != nil {
		return spec, err
	}
	return spec, l.opt.Disks.Check(ctx, v)
}

// bootFile returns the path on this host of a file named in extraConfig.
func (l *Lifecycle) bootFile(v *vm.VM, key string) (string, error) {
	value := v.Extra[key]
	if value == "" {
		return "", &vm.ArgumentError{Property: "extraConfig " + key, Why: "not set: this host boots a kernel and an initramfs that the VM names"}
	}
	rel, err := datastore.ParsePath(value)
	if err != nil {
		return "", &vm.ArgumentError{Property: "extraConfig " + key, Why: err.Error()}
	}
	return vm.HostFile(l.opt.Store, rel)
}

// Timeline returns that of a run that begins now.
func Timeline() []hostapi.Mark {
	return []hostapi.Mark{{Name: hostapi.MarkBegun, At: time.Now().UTC()}}
}

// Close lets go of all machines without ending them; their VMs are as they were when the inventory is opened again.
func (l *Lifecycle) Close() error {
	l.closing.Store(true)
	var errs []error
	for _, e := range l.opt.Inventory.Entries() {
		if m, _ := e.Machine(); m != nil {
			if err := m.Close(); err != nil {
				errs = append(errs, fmt.Errorf("cannot let go of a machine: %w", err))
			}
		}
	}
	l.watches.Wait()
	return errors.Join(errs...)
}
