// Package clone makes VMs that go on from where others are.
package clone

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/admission"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/disks"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/inventory"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/lifecycle"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/networks"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/prestart"
	"github.com/containervm/containervm/hostd-bridge/internal/vmlog"
)

// startsPerCPU is how many machines of clones start at the same time, for each of the host's CPUs; more would only make all of
// them late.
const startsPerCPU = 2

// Options is what a Cloner works with.
type Options struct {
	Inventory  *inventory.Inventory
	Admission  *admission.Admission
	Disks      *disks.Disks
	Prestart   *prestart.Pool
	Lifecycle  *lifecycle.Lifecycle
	Networks   *networks.Networks
	Store      *datastore.Store
	Hypervisor vm.Hypervisor
	Capacity   vm.Capacity
	BootID     string           // as of vmhost.Options
	Observe    func(vm.Outcome) // is told of each clone that has ended
	Log        *slog.Logger
}

// Cloner clones the VMs of a host.
type Cloner struct {
	opt      Options
	starting chan struct{} // holds one token for each machine that starts
}

// New returns the cloner of a host's VMs.
func New(opt Options) *Cloner {
	return &Cloner{opt: opt, starting: make(chan struct{}, startsPerCPU*max(1, opt.Capacity.CPUs))}
}

// operation is a clone that is in flight.
type operation struct {
	source    *inventory.Entry
	src       *vm.VM // as it was at the beginning
	release   func() // lets others operate on the source
	child     *inventory.Entry
	machine   *prestart.Machine     // the child's; nil: none was prestarted for it
	changes   []vm.DiskChange       // what disks are added
	disks     []vm.UnitDisk         // all of the child's
	forkPoint vm.ForkPoint          // nil: machine has it
	ports     []hostapi.Publication // that the child publishes
}

// InstantClone makes a VM that goes on from where the VM source is, and returns once its CPUs run. A source that is frozen
// is forked from its fork point. One that runs is stopped for a moment; its disk as it is then is kept for the child.
func (c *Cloner) InstantClone(ctx context.Context, source string, spec vm.CloneSpec) (ref string, err error) {
	out, begun := vm.Outcome{Fork: true}, time.Now()
	defer func() {
		out.Took, out.Err = time.Since(begun), err
		c.opt.Observe(out)
	}()
	s, release, err := c.opt.Inventory.Acquire(ctx, source)
	if err != nil {
		return "", err
	}
	defer release()
	src := s.VM()
	if src.Power != vm.PoweredOn {
		return "", &vm.StateError{Name: src.Name, Current: src.Power, Required: vm.PoweredOn}
	}
	config, err := c.childConfig(src, &spec)
	if err != nil {
		return "", err
	}
	e, m, done, err := c.allocate(src, config)
	if err != nil {
		return "", err
	}
	defer done()
	out.Prestarted = m != nil
	net, err := c.opt.Networks.Begin(ctx, e.VM(), nil)
	if err != nil {
		if m != nil {
			c.opt.Prestart.Discard(m)
		}
		return "", errors.Join(err, c.opt.Lifecycle.RollBack(e)) // in the words of who asks for ports
	}
	defer net.End()
	if err := c.fork(ctx, &operation{ports: net.Published, source: s, src: src, release: release, child: e, machine: m, changes: vm.AllDisks(spec.Disk, spec.DataDisks)}); err != nil {
		err = fmt.Errorf("cannot clone VM %s as %s: %w", src.Name, config.Name, orEnded(s, err))
		net.Undo(ctx)
		return "", errors.Join(err, c.opt.Lifecycle.RollBack(e))
	}
	return e.VM().Ref, nil
}

// orEnded returns the error that says that the VM is off when it has ended meanwhile, which explains err.
func orEnded(e *inventory.Entry, err error) error {
	if v := e.VM(); v.Power != vm.PoweredOn {
		return &vm.StateError{Name: v.Name, Current: v.Power, Required: vm.PoweredOn}
	}
	return err
}

// childConfig is the configuration of a clone of src, or what is wrong with it.
func (c *Cloner) childConfig(src *vm.VM, spec *vm.CloneSpec) (vm.Config, error) {
	config := vm.Config{
		Name: spec.Name, Pool: cmp.Or(spec.Pool, src.Pool), UUID: spec.UUID, GuestID: src.GuestID, Annotation: src.Annotation,
		Home: spec.Home, CPUs: src.CPUs, MemoryMiB: src.MemoryMiB, CPULimit: src.CPULimit, Extra: inherited(src.Extra),
	}
	if spec.Disk != nil && src.Disk != nil {
		return config, &vm.DeviceError{Why: "the root slot holds a disk in VM " + src.Name + ": its clones have that"}
	}
	if err := vm.CheckExtra(spec.Extra); err != nil {
		return config, err
	}
	config.Extra = vm.MergeExtra(config.Extra, spec.Extra)
	cards := slices.Clone(src.NICs)
	for n := range cards {
		cards[n].MAC = ""
	}
	var err error
	if config.NICs, err = spec.Cards.Applied(cards); err != nil {
		return config, err
	}
	return config, config.Complete(c.opt.Capacity)
}

// inherited returns the keys of extraConfig that a clone has of its source.
func inherited(extra map[string]string) map[string]string {
	out := maps.Clone(extra)
	maps.DeleteFunc(out, func(k, _ string) bool { return !hostapi.Inherited(k) })
	return out
}

// allocate allocates the VM of a clone, with the CID of a prestarted machine if there is one for it.
func (c *Cloner) allocate(src *vm.VM, config vm.Config) (e *inventory.Entry, m *prestart.Machine, release func(), err error) {
	var cid uint32
	if src.Frozen {
		if m = c.opt.Prestart.Take(src.Ref); m != nil {
			cid = m.CID()
		}
	}
	e, release, err = c.opt.Inventory.Allocate(&vm.VM{
		Config: config, Power: vm.PoweredOff, InFlight: &vm.Operation{Kind: vm.OpClone, Boot: c.opt.BootID},
		Timeline: lifecycle.Timeline(), Run: 1, Runs: 1, // its first run begins with the clone
	}, cid)
	if err != nil && m != nil {
		c.opt.Prestart.Return(src.Ref, m)
	}
	return e, m, release, err
}

// fork makes an allocated VM run. The prestarted machine is used up, also when that fails.
func (c *Cloner) fork(ctx context.Context, o *operation) (err error) {
	defer func() {
		if o.machine != nil {
			c.opt.Prestart.Discard(o.machine)
		}
	}()
	settle, err := c.opt.Admission.Admit(o.child.VM(), admission.ForkCost(o.src))
	if err != nil {
		return err
	}
	defer settle()
	kept, err := c.takeForkPoint(ctx, o)
	if err != nil {
		return err
	}
	defer c.closeForkPoint(o)
	if o.disks, err = c.opt.Disks.PlanChild(ctx, o.child, o.src, o.changes, kept); err != nil {
		return err
	}
	var syncing sync.WaitGroup
	defer syncing.Wait()
	synced := make(chan error, 1)
	syncing.Go(func() { synced <- c.opt.Inventory.Sync() }) // while the machine starts; start waits for it
	if o.src.Frozen {                                       // else what it writes to its log from now on would be the child's too
		o.release()
	}
	if err := c.makeFiles(ctx, o); err != nil {
		return err
	}
	o.release()
	return c.start(ctx, o, synced)
}

// takeForkPoint takes the memory that the child goes on with, unless a machine was prestarted with it, and returns the kept disks that
// the child's are to be deltas of.
func (c *Cloner) takeForkPoint(ctx context.Context, o *operation) (kept disks.Kept, err error) {
	m, err := c.opt.Inventory.Machine(o.src.Ref)
	if err != nil {
		return kept, err
	}
	if kept, err = c.opt.Disks.Keep(ctx, o.source); err != nil {
		return kept, err
	}
	switch {
	case o.machine != nil:
		return kept, nil
	case o.src.Frozen:
		o.forkPoint, err = m.ForkPoint(ctx)
	default:
		o.forkPoint, err = m.Snapshot(ctx, c.opt.Disks.Deltas(o.src))
	}
	if err != nil {
		return kept, fmt.Errorf("cannot take the fork point: %w", err)
	}
	return kept, nil
}

func (c *Cloner) closeForkPoint(o *operation) {
	if o.forkPoint == nil {
		return
	}
	if err := o.forkPoint.Close(); err != nil {
		c.opt.Log.Warn("cannot close a fork point", "err", err)
	}
}

// makeFiles makes the files of a child: its home with what it inherits of the log, its disks, its run directory.
func (c *Cloner) makeFiles(ctx context.Context, o *operation) error {
	v := o.child.VM()
	if err := c.opt.Store.Mkdir(v.Home, true); err != nil {
		return err
	}
	if !o.src.Frozen {
		if err := vmlog.Inherit(c.opt.Store.HostPath(o.src.Home), c.opt.Store.HostPath(v.Home), v.Log()); err != nil {
			return err
		}
	}
	if err := c.opt.Disks.Make(ctx, o.disks); err != nil {
		return err
	}
	return os.MkdirAll(c.opt.Lifecycle.RunDir(v.Ref), 0o700)
}

// start gives a child's machine its identity and lets it go on. It returns when all records of the child so far are synced.
func (c *Cloner) start(ctx context.Context, o *operation, synced <-chan error) error {
	select {
	case c.starting <- struct{}{}:
		defer func() { <-c.starting }()
	case <-ctx.Done():
		return ctx.Err()
	}
	v := o.child.VM()
	if o.machine == nil {
		var err error
		if o.machine, err = c.opt.Prestart.Prestart(ctx, o.forkPoint, o.src, v.CID); err != nil {
			return err
		}
	}
	p := o.machine
	o.machine = nil // nothing is left of it when it cannot start
	m, err := p.Start(ctx, c.opt.Lifecycle.Identity(v))
	if err != nil {
		return err
	}
	if err := <-synced; err != nil {
		return errors.Join(err, lifecycle.End(ctx, m))
	}
	return c.opt.Lifecycle.Began(ctx, o.child, m, inventory.Written, o.ports)
}

// Recover rolls back a clone that an earlier daemon has not answered. Its machine may have started just before the daemon died. That a
// clone was answered is written, not synced, since its sync goes on while the machine starts: so one that is found after a
// crash of the host may have been answered, and stays, as a VM that is off.
func (c *Cloner) Recover(ctx context.Context, e *inventory.Entry) error {
	v := e.VM()
	if v.InFlight.Boot != c.opt.BootID {
		c.opt.Lifecycle.Lost(e, &vm.Exit{Reason: "the host went down while the VM was cloned, or soon after"})
		return nil
	}
	m, _, err := c.opt.Hypervisor.Adopt(ctx, v.Ref, c.opt.Lifecycle.RunDir(v.Ref))
	if err == nil && m != nil {
		err = lifecycle.End(ctx, m)
	}
	if err != nil {
		c.opt.Log.Error("cannot end a machine that nobody was told of", "vm", v.Name, "err", err)
	}
	return c.opt.Lifecycle.RollBack(e)
}
