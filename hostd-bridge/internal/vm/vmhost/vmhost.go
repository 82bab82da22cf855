// Package vmhost puts together what holds and operates the virtual machines of one host, for those who serve its clients.
package vmhost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/admission"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/clone"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/disks"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/inventory"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/journal"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/lifecycle"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/networks"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/prestart"
)

// Options is what a Host works with. Every field is needed, unless it says otherwise.
type Options struct {
	Journal    *journal.Journal // closed by the caller, after Close
	Store      *datastore.Store
	Hypervisor vm.Hypervisor
	Disks      vm.Disks
	RunDir     string // sockets and state of running and prestarted machines, one directory each
	Switches   vm.Switches
	NetDir     string // sockets and state of networks' switches, one directory each
	// HostGateway is as of networks.Options; empty: none.
	HostGateway      []hostapi.PortRange
	Linger, Patience time.Duration // as of networks.Options
	HostMemoryMiB    int64
	HostCPUs         int
	Blank            string // datastore path of the disk that new disks without a parent are deltas of
	Log              *slog.Logger
	// Prestart is how many machines are prestarted for each template in use, PrestartMemoryMiB bounds their memory in all.
	Prestart          int
	PrestartMemoryMiB int
	// Observe, if it is not nil, is told of each power-on and clone that has ended. It must not block.
	Observe func(vm.Outcome)
	// BootID names the host's present boot; empty: /proc says it.
	BootID string
	// MemAvailable returns the memory in MiB that the host could give away now; nil: /proc/meminfo says it.
	MemAvailable func() (int64, error)
}

// Host is the VMs of a host, and what can be done to them.
type Host struct {
	*inventory.Inventory
	*lifecycle.Lifecycle
	*clone.Cloner
	*disks.Disks
	Prestart   *prestart.Pool
	Switches   *networks.Networks
	Capacity   vm.Capacity
	Hypervisor vm.Hypervisor
}

// Open reads the inventory from its journal, finishes or rolls back what an earlier daemon left half done, and adopts the
// machines that still run.
func Open(ctx context.Context, opt Options) (*Host, error) {
	if opt.BootID == "" {
		id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil {
			return nil, fmt.Errorf("cannot tell the host's boots apart: %w", err)
		}
		opt.BootID = strings.TrimSpace(string(id))
	}
	if opt.Observe == nil {
		opt.Observe = func(vm.Outcome) {}
	}
	inv, err := inventory.Open(opt.Journal, opt.Store)
	if err != nil {
		return nil, err
	}
	h := wire(opt, inv)
	if err := h.recover(ctx); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	h.Prestart.Run(ctx)
	return h, nil
}

func wire(opt Options, inv *inventory.Inventory) *Host {
	h := &Host{Inventory: inv, Capacity: vm.Capacity{CPUs: opt.HostCPUs, MemoryMiB: opt.HostMemoryMiB, NoCPULimit: opt.Hypervisor.LimitsCPUs()}, Hypervisor: opt.Hypervisor}
	memory := admission.New(inv, opt.HostMemoryMiB, opt.MemAvailable)
	h.Disks = disks.New(disks.Options{Inventory: inv, Store: opt.Store, Files: opt.Disks, Blank: opt.Blank, Log: opt.Log})
	h.Prestart = prestart.New(prestart.Options{
		Inventory: inv, Admission: memory, Hypervisor: opt.Hypervisor, RunDir: opt.RunDir,
		PerTemplate: opt.Prestart, MemoryMiB: opt.PrestartMemoryMiB, Log: opt.Log,
	})
	h.Switches = networks.New(networks.Options{
		Inventory: inv, Switches: opt.Switches, Dir: opt.NetDir, HostGateway: opt.HostGateway, Patience: opt.Patience, Linger: opt.Linger, Log: opt.Log,
	})
	h.Lifecycle = lifecycle.New(lifecycle.Options{
		Inventory: inv, Admission: memory, Disks: h.Disks, Prestart: h.Prestart, Networks: h.Switches, Store: opt.Store, Hypervisor: opt.Hypervisor,
		Capacity: h.Capacity, RunDir: opt.RunDir, Blank: opt.Blank, Observe: opt.Observe, Log: opt.Log,
	})
	h.Cloner = clone.New(clone.Options{
		Inventory: inv, Admission: memory, Disks: h.Disks, Prestart: h.Prestart, Lifecycle: h.Lifecycle, Networks: h.Switches, Store: opt.Store,
		Hypervisor: opt.Hypervisor, Capacity: h.Capacity, BootID: opt.BootID, Observe: opt.Observe, Log: opt.Log,
	})
	return h
}

// recover brings all VMs of an earlier daemon into order, at the same time.
func (h *Host) recover(ctx context.Context) error {
	if err := h.Mend(ctx); err != nil {
		return err
	}
	entries := h.Entries()
	errs := make([]error, len(entries))
	var all sync.WaitGroup
	for n, e := range entries {
		all.Go(func() {
			if o := e.VM().InFlight; o != nil && o.Kind == vm.OpClone {
				errs[n] = h.Cloner.Recover(ctx, e)
				return
			}
			errs[n] = h.Lifecycle.Recover(ctx, e)
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := h.Disks.Sweep(ctx); err != nil {
		return fmt.Errorf("cannot clear up the disks of forks: %w", err)
	}
	h.Lifecycle.Sweep()
	if err := h.Switches.Run(); err != nil {
		return fmt.Errorf("cannot find the switches of networks again: %w", err)
	}
	return nil
}

// Close ends the prestarted machines and the switches of networks that no VM which is on is in, and lets go of all others without ending
// them; their VMs are as they were when the host is
// opened again.
func (h *Host) Close() error {
	h.Prestart.Close()
	err := h.Lifecycle.Close()
	return errors.Join(err, h.Switches.Close())
}

// SetNetwork changes the settings of a network, also while VMs are in it.
func (h *Host) SetNetwork(ref string, s hostapi.NetworkSettings) error {
	err := h.Inventory.SetNetwork(ref, s)
	h.Switches.Changed()
	return err
}

// RemoveNetwork removes a network that no card is in. Its switch, if there is one still, ends.
func (h *Host) RemoveNetwork(ref string) error {
	err := h.Inventory.RemoveNetwork(ref)
	h.Switches.Changed()
	return err
}
